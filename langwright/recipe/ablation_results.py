"""What an ablation found, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from langwright.recipe.ablation_statistics import Estimate, estimate


@dataclass(frozen=True)
class Outcome:
    """One finished run, or one that failed (`error`; its figures are then 0)."""

    seed: int
    loss: float = 0.0  # nats per token of the validation text, at the end
    tokens: int = 0
    updates: int = 0
    flops: float = 0.0  # matrix products of the training
    seconds: float = 0.0
    error: str | None = None


@dataclass(frozen=True)
class VariantResult:
    """A variant with its runs, one for each seed."""

    name: str
    about: str
    settings: list[str]  # changed against the recipe, after what the baseline changes
    runs: list[Outcome] = field(default_factory=list)
    chosen: str | None = None  # the setting that `choose` came to
    tried: dict[str, float | None] = field(default_factory=dict)  # setting -> loss; None: failed
    own_rows: bool = False  # trained on rows that were cut in another way

    @property
    def good(self) -> list[Outcome]:
        """The runs that came to an end."""
        return [run for run in self.runs if run.error is None]

    @property
    def errors(self) -> list[Outcome]:
        """Those that did not."""
        return [run for run in self.runs if run.error is not None]

    @property
    def loss(self) -> Estimate | None:
        """Mean loss over seeds; None if no run came to an end."""
        return estimate([run.loss for run in self.good]) if self.good else None

    def mean(self, name: str) -> float:
        """Mean of a figure ("tokens", "flops", "seconds") over the runs that came to an end."""
        return fmean(getattr(run, name) for run in self.good)


@dataclass(frozen=True)
class Ablation:
    """Variants beside the baseline, at one budget of FLOPs."""

    recipe: str
    budget: float  # FLOPs of each run
    seeds: list[int]
    baseline: VariantResult
    variants: list[VariantResult]
    parameters: int  # of the baseline's model
    sources: list[str]
    folder: Path  # of the runs and of these results

    @property
    def rows(self) -> list[VariantResult]:
        """The baseline, then the variants."""
        return [self.baseline, *self.variants]

    def difference(self, variant: VariantResult) -> Estimate | None:
        """Loss of the variant minus that of the baseline, run by run of the same seed.

        Pairing takes out what the seed does to both alike. None without a common seed.
        """
        before = {run.seed: run.loss for run in self.baseline.good}
        pairs = [run.loss - before[run.seed] for run in variant.good if run.seed in before]
        return estimate(pairs) if pairs else None

    def to_json(self) -> dict[str, Any]:
        """All numbers."""
        rows = []
        for row in self.rows:
            difference = None if row is self.baseline else self.difference(row)
            rows.append(
                {
                    **asdict(row),
                    "loss": _plain(row.loss),
                    "difference": _plain(difference),
                    "verdict": verdict(difference),
                }
            )
        return {
            "recipe": self.recipe,
            "sources": self.sources,
            "parameters": self.parameters,
            "flops_per_run": self.budget,
            "seeds": self.seeds,
            "baseline": rows[0],
            "variants": rows[1:],
        }


def verdict(difference: Estimate | None) -> str | None:
    """What a difference shows: "worse", "better", or "not shown" where its interval holds 0."""
    if difference is None:
        return None
    return {1: "worse", -1: "better", 0: "not shown"}[difference.sign]


def best_of(tried: dict[str, float | None]) -> str | None:
    """The setting with the lowest loss; None if all failed."""
    losses: Sequence[tuple[float, str]] = [(v, k) for k, v in tried.items() if v is not None]
    return min(losses)[1] if losses else None


def _plain(value: Estimate | None) -> dict[str, Any] | None:
    return None if value is None else asdict(value)
