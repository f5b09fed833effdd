"""Run a recipe: every stage that is not up to date, then the model folder and the report."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langwright.base import (
    Manifest,
    UserError,
    human_seconds,
    machine,
    matmul_peak,
    read_json,
    read_manifest,
    say,
    write_atomic,
    write_json,
)
from langwright.corpus import check_sources
from langwright.recipe.config import Recipe, load_recipe
from langwright.recipe.lock import folder_lock
from langwright.recipe.overrides import name_nones
from langwright.recipe.report import write_report
from langwright.recipe.stages import Stage, model_folder, recipe_stages
from langwright.recipe.summary import summary_text
from langwright.recipe.toml import write_toml

Say = Callable[[str], None]
STAGES = ("corpus", "tokenizer", "dataset", "pretrain", "sft", "evaluate")


@dataclass(frozen=True)
class Run:
    """A finished run directory."""

    folder: Path
    recipe: Recipe
    manifests: dict[str, Manifest] = field(default_factory=dict)
    remade: tuple[str, ...] = ()  # the stages that this call ran
    seconds: float = 0.0  # that this call took

    @property
    def model(self) -> Path:
        """The final model, a Hugging Face model folder."""
        return self.folder / "model"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.folder / "report.html"

    def summary(self) -> str:
        """What came out, for a terminal."""
        return summary_text(self.folder)


def run_recipe(
    path: str | Path,
    overrides: Sequence[str] = (),
    corpus: Sequence[str | Path] | None = None,
    runs: str | Path = "runs",
    name: str | None = None,
    tell: Say = say,
) -> Run:
    """From raw text to an answering model in ``RUNS/NAME/``.

    What an earlier call finished and nothing has changed is kept; what one was interrupted in
    goes on.

    Args:
        path: the recipe, a TOML file.
        overrides: settings such as ``"pretrain.steps=100"``; they win over the file.
        corpus: files, folders or globs in place of the recipe's own corpus sources.
        runs: where run folders stand.
        name: of the run folder; the recipe's by default.
        tell: told in one line each what happens and why.
    """
    started = time.perf_counter()
    recipe = load_recipe(path, overrides, name=name)
    if corpus:
        recipe = with_corpus(recipe, [str(entry) for entry in corpus], tell)
    folder = Path(runs) / recipe.name
    with folder_lock(folder):
        _tell_machine(tell)
        _tell_plan(recipe, folder, tell)
        write_atomic(folder / "recipe.toml", recipe_text(recipe))
        write_json(folder / "recipe.json", {"recipe": recipe.to_json(), "file": str(path)})
        manifests, remade = run_stages(recipe, folder, tell)
        final = "sft" if "sft" in manifests else "pretrain"
        link_model(model_folder(folder / final), folder / "model", _provenance(recipe, manifests))
        write_report(folder)
    return Run(folder, recipe, manifests, tuple(remade), time.perf_counter() - started)


def open_run(folder: str | Path) -> Run:
    """A run directory that stands on the disk."""
    folder = Path(folder)
    path = folder / "recipe.json"
    if not path.exists():
        raise UserError("this is not a run folder", where=folder, expected="a recipe.json in it")
    found = {name: folder / name for name in STAGES if (folder / name / "manifest.json").exists()}
    manifests = {name: read_manifest(place) for name, place in found.items()}
    return Run(folder, Recipe.parse(read_json(path)["recipe"], where=path), manifests)


def run_stages(recipe: Recipe, folder: Path, tell: Say) -> tuple[dict[str, Manifest], list[str]]:
    """Run what is not up to date; the manifests of all stages, and the names of those that ran."""
    manifests: dict[str, Manifest] = {}
    remade: list[str] = []
    for stage in recipe_stages(recipe, folder):
        stale = stage.stale() is not None
        manifests[stage.name] = stage.run(tell)
        if stale:
            remade.append(stage.name)
            tell(f"{stage.name}: done in {human_seconds(manifests[stage.name].seconds)}")
    if recipe.sft is not None and "sft" not in manifests:
        tell("sft: skipped, the corpus has no conversations to learn from")
    for name in STAGES:  # what an earlier recipe of this name made must not be taken for a result
        if name not in manifests and (folder / name).exists():
            shutil.rmtree(folder / name)
    return manifests, remade


def with_corpus(recipe: Recipe, sources: list[str], tell: Say) -> Recipe:
    """The recipe on other text. Weights that name sources which are gone are left out.

    Raises:
        UserError: a source is not there.
    """
    values = recipe.to_json()
    values["corpus"]["sources"] = sources
    for section, key in (("dataset", "weights"), ("tokenizer", "source_weights")):
        if values[section].get(key):
            values[section].pop(key)
            tell(f"[{section}] {key} left out: they belong to the recipe's own sources")
    if values.get("evaluate") and values["evaluate"].get("headline_source"):
        values["evaluate"]["headline_source"] = None
    changed = Recipe.parse(values, where="--corpus")
    check_sources(changed.corpus)
    return changed


def recipe_text(recipe: Recipe) -> str:
    """The whole recipe as TOML, defaults included: running it again gives the same run."""
    head = "# Every setting of this run, defaults included. `langwright run` takes this file too.\n"
    values = name_nones(recipe.to_json(), Recipe)
    values["model"] = {key: "none" if v is None else v for key, v in recipe.model.items()}
    return head + write_toml(values)


def link_model(source: Path, out: Path, provenance: dict[str, Any]) -> None:
    """Make `out` the model folder `source`, without copying where the disk can link.

    `out` is replaced by rename: whoever reads it meanwhile sees the old model or the new one.
    """
    partial, old = out.with_name(out.name + ".partial"), out.with_name(out.name + ".old")
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    shutil.copytree(source, partial, copy_function=_link)
    write_json(partial / "provenance.json", provenance)
    if out.exists():
        os.replace(out, old)
    os.replace(partial, out)
    shutil.rmtree(old, ignore_errors=True)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)
    return target


def _provenance(recipe: Recipe, manifests: dict[str, Manifest]) -> dict[str, Any]:
    """Where a model comes from, kept inside its folder."""
    last = manifests.get("sft") or manifests["pretrain"]
    return {
        "made_by": "Langwright",
        "run": recipe.name,
        "created": last.created,
        "environment": last.environment,
        "stages": {
            name: {"key": m.key, "fingerprint": m.fingerprint, "seconds": m.seconds}
            for name, m in manifests.items()
        },
        "recipe": recipe.to_json(),
    }


def _tell_machine(tell: Say) -> None:
    found = machine()
    tell(f"machine: {found.describe()}")
    rates = {dtype: matmul_peak(dtype) for dtype in ("fp32", "bf16")}
    written = ", ".join(f"{rate / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, rate in rates.items())
    faster = rates["bf16"] > 1.2 * rates["fp32"]
    choice = "bf16 pays for itself here" if faster else "bf16 gains nothing here"
    tell(f"machine: large matrix products run at {written} (measured): {choice}")


def _tell_plan(recipe: Recipe, folder: Path, tell: Say) -> None:
    """What will run and why, before anything does."""
    rows = plan(recipe, folder)
    width = max(len(name) for name, _ in rows)
    tell(f"plan for {folder}:")
    for name, reason in rows:
        tell(f"  {name:<{width}}  {'run: ' + reason if reason else 'up to date'}")


def plan(recipe: Recipe, folder: Path) -> list[tuple[str, str | None]]:
    """Each stage with the reason to run it; None where it is up to date."""
    rows: list[tuple[str, str | None]] = []
    stale: list[str] = []
    for stage in recipe_stages(recipe, folder):
        made_by = [_made_by(value, folder) for value in stage.inputs.values()]
        before = [name for name in stale if name in made_by]
        reason = _first_reason(stage, folder, before)
        rows.append((stage.name, reason))
        if reason is not None:
            stale.append(stage.name)
    return rows


def _first_reason(stage: Stage, folder: Path, before: list[str]) -> str | None:
    """Why a stage runs, as far as it can be known while stages before it have to run."""
    missing = [v for v in stage.inputs.values() if isinstance(v, Path) and not v.exists()]
    if before or missing:
        if not stage.out.exists():
            return "not made yet"
        return f"if {' or '.join(before) or 'its input'} turns out differently"
    return "was interrupted, goes on" if stage.can_continue() else stage.stale()


def _made_by(value: str | Path, folder: Path) -> str | None:
    """The stage whose artifact this is."""
    return value.name if isinstance(value, Path) and value.parent == folder else None
