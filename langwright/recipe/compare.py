"""Do two training runs agree, and if not, where do they part?

The largest difference shows a fault that strikes once; the mean difference shows one that is small
and always points the same way, such as a forgotten factor in accumulation. Both have a limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from langwright.base import Manifest, UserError, read_json, read_manifest
from langwright.recipe.compare_weights import WeightDifference, compare_weights
from langwright.recipe.facts import Record, read_records

STAGES = ("pretrain", "sft")
GROUPS = 20  # neighbouring steps whose differences are not independent are taken together
NORM = "grad_norm"


@dataclass(frozen=True)
class Tolerance:
    """How much two runs may differ: losses in nats, gradient norms as a share."""

    largest: float
    mean: float
    norm: float

    def limits(self, name: str) -> tuple[float, float]:
        """(largest difference, mean difference) allowed to a quantity."""
        if name != NORM:
            return self.largest, self.mean
        return self.norm, self.norm * self.mean / self.largest


# What rounding in another order does to a run of some steps, in each number format.
TOLERANCES = {
    "fp32": Tolerance(2e-6, 5e-7, 1e-5),
    "bf16": Tolerance(5e-3, 1e-3, 1e-2),
    "fp16": Tolerance(5e-3, 1e-3, 1e-2),
}


@dataclass(frozen=True)
class Training:
    """The records of one training stage, and what is known of its settings."""

    folder: Path
    stage: str
    records: list[Record]
    settings: dict[str, Any]  # flat, by dotted name
    precision: str

    @property
    def updates(self) -> list[Record]:
        """The records of updates."""
        return [record for record in self.records if "loss" in record]


@dataclass(frozen=True)
class Difference:
    """A quantity of both runs where both have it. Differences are first run minus second."""

    name: str
    places: list[int]  # steps, or tokens, of the values
    first: list[float | None]  # None: not finite, or the update was skipped
    second: list[float | None]
    differences: list[float]  # of the finite pairs; of gradient norms relative
    limits: tuple[float, float]

    @property
    def largest(self) -> float:
        """Largest absolute difference; infinite where only one of the two is finite."""
        if self._one_sided():
            return math.inf
        return max((abs(d) for d in self.differences), default=0.0)

    @property
    def mean(self) -> float:
        """Mean difference, with its sign."""
        return fmean(self.differences) if self.differences else 0.0

    @property
    def mean_error(self) -> float | None:
        """Half the 95 % interval of the mean, from the spread of groups of neighbours."""
        size = max(1, len(self.differences) // GROUPS)
        starts = range(0, len(self.differences) - size + 1, size)
        means = [fmean(self.differences[at : at + size]) for at in starts]
        return 1.96 * stdev(means) / math.sqrt(len(means)) if len(means) > 2 else None

    @property
    def parted(self) -> int | None:
        """The first place (an index) where the difference exceeds its limit."""
        return self._first_over(self.limits[0])

    @property
    def unequal(self) -> int | None:
        """The first place (an index) where the values are not the same to the bit."""
        pairs = enumerate(zip(self.first, self.second))
        return next((i for i, (a, b) in pairs if a != b), None)

    @property
    def agrees(self) -> bool:
        """Whether the largest and the mean difference are within their limits."""
        return self.largest <= self.limits[0] and abs(self.mean) <= self.limits[1]

    def _first_over(self, limit: float) -> int | None:
        relative = self.name == NORM
        for index, (a, b) in enumerate(zip(self.first, self.second)):
            if (a is None) != (b is None):
                return index
            if a is not None and b is not None and abs(_difference(a, b, relative)) > limit:
                return index
        return None

    def _one_sided(self) -> bool:
        return any((a is None) != (b is None) for a, b in zip(self.first, self.second))


@dataclass(frozen=True)
class Comparison:
    """Two runs of one training stage side by side."""

    first: Training
    second: Training
    axis: str  # "step", or "tokens" where the batches have different sizes
    quantities: list[Difference]
    tolerance: Tolerance
    missing: tuple[int, int]  # updates of the first, of the second run that the other lacks
    settings: list[tuple[str, Any, Any]] = field(default_factory=list)  # that differ
    weights: WeightDifference | None = None

    @property
    def other_rate(self) -> int | None:
        """The first place at which the learning rates differ, by more than rounding."""
        one, other = (_by_place(run.updates, self.axis) for run in (self.first, self.second))
        for place in sorted(one.keys() & other.keys()):
            a, b = one[place].get("lr"), other[place].get("lr")
            if a is not None and b is not None and not math.isclose(a, b, rel_tol=1e-6):
                return place
        return None

    @property
    def agree(self) -> bool:
        """Whether every quantity agrees."""
        return all(quantity.agrees for quantity in self.quantities)

    @property
    def parting(self) -> tuple[Difference, int] | None:
        """The quantity that exceeds its limit first, and the index of the place."""
        parted = [(q.places[q.parted], q) for q in self.quantities if q.parted is not None]
        if not parted:
            return None
        _, quantity = min(parted, key=lambda pair: pair[0])
        assert quantity.parted is not None
        return quantity, quantity.parted


def compare_runs(
    first: str | Path,
    second: str | Path,
    *,
    stage: str | None = None,
    largest: float | None = None,
    mean: float | None = None,
    norm: float | None = None,
) -> list[Comparison]:
    """Compare two runs, stage by stage.

    Args:
        first, second: run folders, folders of a stage, or metrics.jsonl files.
        stage: "pretrain" or "sft"; None: each that both have.
        largest, mean: limits of loss differences in nats; norm: of gradient norms, as a share.
            None: what rounding does in the coarser of the two runs' number formats.

    Raises:
        UserError: there is nothing to compare.
    """
    left, right = _trainings(Path(first), stage), _trainings(Path(second), stage)
    common = [name for name in left if name in right]
    if _is_stage(Path(first)) and _is_stage(Path(second)):  # whatever they are called
        pairs = [(next(iter(left.values())), next(iter(right.values())))]
    else:
        pairs = [(left[name], right[name]) for name in common]
    if not pairs:
        raise UserError(
            "the runs have no training stage in common",
            where=f"{first}, {second}",
            found=f"{', '.join(left)} and {', '.join(right)}",
        )
    return [_compare(a, b, (largest, mean, norm)) for a, b in pairs]


def _compare(
    first: Training, second: Training, wanted: tuple[float | None, float | None, float | None]
) -> Comparison:
    usual = max((TOLERANCES[run.precision] for run in (first, second)), key=lambda one: one.largest)
    given = [own if own is not None else other for own, other in zip(wanted, _values(usual))]
    tolerance = Tolerance(*given)
    axis = _axis(first, second)
    one, other = _by_place(first.updates, axis), _by_place(second.updates, axis)
    if not one.keys() & other.keys():
        raise UserError(
            "the runs have no update in common",
            where=f"{first.folder}, {second.folder}",
            fix="log_every = 1 in both writes down every update",
        )
    names = ["loss", NORM, *_validation_names(first, second)]
    quantities = [_difference_of(name, first, second, axis, tolerance) for name in names]
    return Comparison(
        first,
        second,
        axis,
        [quantity for quantity in quantities if quantity.places],
        tolerance,
        (len(one.keys() - other.keys()), len(other.keys() - one.keys())),
        _settings_that_differ(first.settings, second.settings),
        compare_weights(first.folder / "model", second.folder / "model"),
    )


def _values(tolerance: Tolerance) -> tuple[float, float, float]:
    return tolerance.largest, tolerance.mean, tolerance.norm


def _axis(first: Training, second: Training) -> str:
    """What to match records by: steps, unless the same step is another number of tokens."""
    sizes = {
        run.updates[0].get("tokens", 0) / run.updates[0]["step"]
        for run in (first, second)
        if run.updates
    }
    return "step" if len(sizes) == 1 else "tokens"


def _by_place(records: list[Record], axis: str) -> dict[int, Record]:
    return {record[axis]: record for record in records if axis in record}


def _validation_names(first: Training, second: Training) -> list[str]:
    names = {
        key
        for record in first.records + second.records
        for key in record
        if key.startswith("valid_") and not key.endswith(("_perplexity", "_bits_per_byte"))
    }
    return sorted(names, key=lambda name: (name != "valid_loss", name))


def _difference_of(
    name: str, first: Training, second: Training, axis: str, tolerance: Tolerance
) -> Difference:
    one = _by_place([r for r in first.records if name in r], axis)
    other = _by_place([r for r in second.records if name in r], axis)
    places = sorted(one.keys() & other.keys())
    a, b = [one[p][name] for p in places], [other[p][name] for p in places]
    pairs = [(x, y) for x, y in zip(a, b) if x is not None and y is not None]
    differences = [_difference(x, y, name == NORM) for x, y in pairs]
    return Difference(name, places, a, b, differences, tolerance.limits(name))


def _difference(a: float, b: float, relative: bool) -> float:
    if not relative:
        return a - b
    return (a - b) / max(abs(a), abs(b), 1e-30)


def _is_stage(path: Path) -> bool:
    """Whether a path names one training itself, rather than a run that may hold several."""
    return path.is_file() or (path / "metrics.jsonl").exists()


def _trainings(path: Path, stage: str | None) -> dict[str, Training]:
    """The training stages of a run by name; interrupted ones too."""
    if path.is_file():
        return {"training": _training(path.parent, path, "training")}
    if not path.is_dir():
        raise UserError("run folder not found", where=path)
    if _is_stage(path):
        name = path.name.removesuffix(".partial")
        return {name: _training(path, path / "metrics.jsonl", name)}
    found = {}
    for name in STAGES if stage is None else (stage,):
        for folder in (path / name, path / f"{name}.partial"):
            if (folder / "metrics.jsonl").exists():
                found[name] = _training(folder, folder / "metrics.jsonl", name)
                break
    if not found:
        raise UserError(
            "no training in this folder", where=path, expected="a run folder, or a metrics.jsonl"
        )
    return found


def _training(folder: Path, metrics: Path, stage: str) -> Training:
    records = [record for record in read_records(metrics) if _has_place(record)]
    if not any("loss" in record for record in records):
        raise UserError("no update is written down here", where=metrics)
    choices = _choices(folder / "choices.json")
    precision = str(choices.get("choices.precision", "fp32"))
    settings = {**_settings(folder, stage), **choices}
    precision = precision if precision in TOLERANCES else "bf16"
    return Training(folder, stage, records, settings, precision)


def _has_place(record: Record) -> bool:
    figures = [record.get("step"), record.get("loss", 0.0), record.get(NORM, 0.0)]
    return isinstance(figures[0], int) and all(isinstance(f, int | float | None) for f in figures)


def _choices(path: Path) -> dict[str, Any]:
    record = read_json(path) if path.exists() else {}
    table = record.get("choices", {}) if isinstance(record, dict) else {}
    return {
        f"choices.{name}": one["value"]
        for name, one in table.items()
        if isinstance(one, dict) and "value" in one
    }


def _settings(folder: Path, stage: str) -> dict[str, Any]:
    """Config, inputs and software of a finished stage; of an unfinished one the recipe."""
    if (folder / "manifest.json").exists():
        manifest: Manifest = read_manifest(folder)
        software = {k: v for k, v in manifest.environment.items() if isinstance(v, str | int)}
        packages = manifest.environment.get("packages")
        return {
            **_flat(manifest.config),
            **{f"input {name}": value[:12] for name, value in manifest.inputs.items()},
            "code": manifest.code,
            **_flat(software, "environment."),
            **_flat(packages if isinstance(packages, dict) else {}, "package "),
        }
    recipe = folder.parent / "recipe.json"
    if not recipe.exists():
        return {}
    table = read_json(recipe)
    return _flat(table.get("recipe", {}) if isinstance(table, dict) else {})


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[prefix + key] = value
    return result


def _settings_that_differ(one: dict[str, Any], other: dict[str, Any]) -> list[tuple]:
    absent = "-"
    names: Sequence[str] = [*one, *(name for name in other if name not in one)]
    pairs = [(name, one.get(name, absent), other.get(name, absent)) for name in names]
    return [pair for pair in pairs if pair[1] != pair[2]]
