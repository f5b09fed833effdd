"""Ablations: which ingredients of a recipe earn their place, at equal compute, over seeds.

The baseline and each variant train from scratch with several seeds on the same corpus, tokenizer
and rows; a seed decides the first weights and the data order of all of them alike, so differences
are taken seed by seed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from langwright.base import UserError, hash_json, human_seconds, say, write_atomic, write_json
from langwright.model import parameter_count
from langwright.recipe.ablation_compute import planned_tokens, training_cost
from langwright.recipe.ablation_results import Ablation, Outcome, VariantResult, best_of
from langwright.recipe.ablation_text import ablation_page, markdown_page
from langwright.recipe.ablation_trial import Data, Trial
from langwright.recipe.ablation_variants import BASELINE, Variant, Variants, read_variants
from langwright.recipe.config import Recipe, known_settings, load_recipe
from langwright.recipe.dial import LENGTHS
from langwright.recipe.job import planned_model
from langwright.recipe.lock import folder_lock
from langwright.recipe.overrides import full_path, open_tables, parse_override
from langwright.recipe.run import Say, with_corpus
from langwright.recipe.stages import dataset_stage, recipe_stages
from langwright.tokenizer import load_tokenizer

UNTOUCHED = ("sft", "evaluate", "report", "name", "seed")  # an ablation does not come to these
CHOICE_SEED = 1000  # added to the recipe's seed where `choose` tries settings


def ablate(
    path: str | Path,
    file: str | Path | None = None,
    *,
    vary: Sequence[Sequence[str]] = (),
    seeds: int = 3,
    overrides: Sequence[str] = (),
    corpus: Sequence[str | Path] | None = None,
    out: str | Path | None = None,
    run: str | Path | None = None,
    tell: Say = say,
) -> Ablation:
    """Train a recipe and its variants at equal compute and compare their validation losses.

    Args:
        path: the recipe; its length must be in tokens or steps.
        file: variants, a TOML file (see `read_variants`).
        vary: further variants, each a list of settings.
        seeds: runs of each variant.
        overrides: settings that all runs share.
        corpus: files or folders in place of the recipe's sources.
        out: folder for the runs, ablation.json, ablation.md and ablation.html; None:
            ``runs/NAME-ablation``. What is finished there is not run again.
        run: a run folder whose corpus, tokenizer and dataset are used; None: they are made in
            `out`.
        tell: told what happens.

    Raises:
        UserError: a setting is wrong, or a variant cannot be compared; nothing is trained then.
    """
    if seeds < 1:
        raise UserError("no seeds", where="--seeds", found=seeds, expected="at least 1")
    experiment = open_experiment(path, file, vary, overrides, corpus, tell)
    folder = Path(out) if out is not None else Path("runs") / f"{experiment.baseline.name}-ablation"
    with folder_lock(folder):
        shared = folder if run is None else Path(run)
        _make_data(experiment.baseline, shared, run is not None, tell)
        return _Runner(experiment, folder, shared, seeds, tell).run()


@dataclass(frozen=True)
class Experiment:
    """A recipe and its variants, read and checked."""

    path: str | Path
    variants: Variants
    overrides: list[str]  # of the command line and the baseline
    corpus: list[str]
    baseline: Recipe

    def recipe(self, settings: Sequence[str]) -> Recipe:
        """The recipe with these settings on top of what all runs share."""
        changes = [_in_full(text) for text in settings]
        recipe = load_recipe(self.path, [*self.overrides, *changes])
        return with_corpus(recipe, self.corpus, lambda text: None) if self.corpus else recipe


def open_experiment(
    path: str | Path,
    file: str | Path | None,
    vary: Sequence[Sequence[str]],
    overrides: Sequence[str] = (),
    corpus: Sequence[str | Path] | None = None,
    tell: Say = say,
) -> Experiment:
    """Read everything, and find every mistake that can be found before training."""
    variants = read_variants(file, vary)
    shared = [_in_full(text) for text in (*overrides, *variants.baseline.set)]
    sources = [str(source) for source in corpus or ()]
    baseline = load_recipe(path, shared)
    if sources:
        baseline = with_corpus(baseline, sources, tell)
    experiment = Experiment(path, variants, shared, sources, baseline)
    planned_tokens(baseline, training_cost(baseline, planned_model(baseline)))
    for choice in variants.baseline.choose:
        _check(experiment, BASELINE, [choice])
    for name, variant in variants.variants.items():
        _check(experiment, name, variant.set)
        for choice in variant.choose:
            _check(experiment, name, [*variant.set, choice])
    return experiment


def _in_full(text: str) -> str:
    """A setting by its whole name; a short one means what a pretraining depends on."""
    keys, _ = parse_override(text)
    known = [path for path in known_settings() if path[0] not in UNTOUCHED]
    full = full_path(keys, known, open_tables(Recipe))
    return ".".join(full) + "=" + text.partition("=")[2]


def _check(experiment: Experiment, name: str, settings: list[str]) -> None:
    """Whether a variant can be compared to the baseline."""
    try:
        recipe = experiment.recipe(settings)
        training_cost(recipe, planned_model(recipe))
    except UserError as error:
        where = f"variant {name!r}: {error.where}" if error.where else f"variant {name!r}"
        parts = {"found": error.found, "expected": error.expected, "fix": error.fix}
        raise UserError(error.message, where=where, **parts) from None
    base = experiment.baseline
    for section in ("corpus", "tokenizer"):
        if getattr(recipe, section) != getattr(base, section):
            raise UserError(
                f"variants share the [{section}]: losses per token of another one do not compare",
                where=f"variant {name!r}",
                found=", ".join(settings),
            )
    lengths = [[getattr(one.pretrain, n) for n in LENGTHS] for one in (recipe, base)]
    if lengths[0] != lengths[1] or recipe.pretrain.seed != base.pretrain.seed:
        raise UserError(
            "the length of a run follows from equal compute, its seed from --seeds",
            where=f"variant {name!r}",
            found=", ".join(settings),
            fix="set them for the whole ablation",
        )


def _make_data(recipe: Recipe, folder: Path, borrowed: bool, tell: Say) -> None:
    """The corpus, tokenizer and dataset that all runs share."""
    for stage in islice(recipe_stages(recipe, folder), 3):
        reason = stage.stale() if borrowed else None
        if reason is not None:
            raise UserError(
                f"the {stage.name} of this run is not the recipe's: {reason}",
                where=folder,
                fix="give the run's own recipe, or leave --run out",
            )
        stage.run(tell)


@dataclass
class _Runner:
    """Goes through all runs and writes the results after each variant."""

    experiment: Experiment
    folder: Path
    shared: Path  # holds corpus, tokenizer and dataset
    seeds: int
    tell: Say
    _done: int = 0
    _flops: float = 0.0  # trained in this call
    _seconds: float = 0.0
    _base_settings: list[str] = field(default_factory=list)  # what the baseline has chosen

    def __post_init__(self) -> None:
        base = self.experiment.baseline
        self._vocabulary = load_tokenizer(self.shared / "tokenizer").vocab_size
        cost = training_cost(base, base.architecture(self._vocabulary))
        self._budget = cost.planned(planned_tokens(base, cost))
        every = [self.experiment.variants.baseline, *self.experiment.variants.variants.values()]
        self._total = sum(self.seeds + len(variant.choose) for variant in every)

    def run(self) -> Ablation:
        """All of them."""
        base = self.experiment.baseline
        variants = self.experiment.variants
        seeds = [base.pretrain.seed + i for i in range(self.seeds)]
        self.tell(
            f"{self._total} runs of {self._budget / 1e12:.3g} TFLOP: "
            f"{len(variants.variants)} variants and the baseline, {self.seeds} seeds"
        )
        first = self._variant(BASELINE, variants.baseline, [])
        result = Ablation(
            recipe=base.name,
            budget=self._budget,
            seeds=seeds,
            baseline=first,
            variants=[],
            parameters=parameter_count(base.architecture(self._vocabulary)).total,
            sources=list(base.corpus.sources),
            folder=self.folder,
        )
        if not first.good:
            write_results(result, self.folder)
            raise UserError("the baseline failed", where=self.folder, found=first.errors[0].error)
        for name, variant in variants.variants.items():
            result.variants.append(self._variant(name, variant, variant.set))
            write_results(result, self.folder)
        return result

    def _variant(self, name: str, variant: Variant, settings: list[str]) -> VariantResult:
        """Choose what is to be chosen, then a run for each seed."""
        first = self.experiment.baseline.pretrain.seed
        tried: dict[str, float | None] = {}
        for choice in variant.choose:
            number = len(tried) + 1
            found = self._trial(f"{name}/choice-{number}", [*settings, choice], first + CHOICE_SEED)
            tried[choice] = found.loss if found.error is None else None
        chosen = best_of(tried)
        if chosen is not None:
            settings = [*settings, chosen]
            self.tell(f"{name}: {chosen} is the best of {len(tried)}")
        elif tried:
            self.tell(f"{name}: none of {', '.join(tried)} works")
            self._done += self.seeds
            failed = [Outcome(first + i, error="no choice works") for i in range(self.seeds)]
            return VariantResult(name, variant.about, settings, failed, None, tried)
        if name == BASELINE:
            self._base_settings, settings = settings, []
        runs = [
            self._trial(f"{name}/seed-{first + i}", settings, first + i) for i in range(self.seeds)
        ]
        recipe = self.experiment.recipe(settings)
        own = recipe.dataset != self.experiment.baseline.dataset
        shown = self._base_settings if name == BASELINE else settings
        return VariantResult(name, variant.about, list(shown), runs, chosen, tried, own)

    def _trial(self, place: str, settings: list[str], seed: int) -> Outcome:
        """One run; a failure is told and does not stop the others."""
        self._done += 1
        recipe = self.experiment.recipe([*self._base_settings, *settings])
        cost = training_cost(recipe, recipe.architecture(self._vocabulary))
        folder = self.folder / "trials" / place
        trial = Trial(recipe, cost, cost.tokens(self._budget), seed, folder)
        label = f"run {self._done} of {self._total}, {place.replace('/', ', ')}"
        started = time.perf_counter()
        self.tell(f"{label}: {trial.tokens:,} tokens{self._time_left()}")
        try:
            outcome = trial.run(self._data(recipe))
        except UserError as error:  # the rows of this variant cannot be made
            outcome = Outcome(seed, error=error.message)
        if outcome.error is not None:
            self.tell(f"{label}: failed: {outcome.error}")
            return outcome
        spent = time.perf_counter() - started
        if spent > 0.5 * outcome.seconds:  # else it was there already
            self._flops, self._seconds = self._flops + trial.flops, self._seconds + spent
        self.tell(f"{label}: validation loss {outcome.loss:.4f}")
        return outcome

    def _data(self, recipe: Recipe) -> Data:
        """The shared rows, or rows of the variant's own, cut from the shared corpus."""
        shared = self.shared
        dataset = shared / "dataset"
        if recipe.dataset != self.experiment.baseline.dataset:
            name = hash_json(recipe.dataset.to_json())[:12]
            dataset = self.folder / "datasets" / name
            dataset.parent.mkdir(parents=True, exist_ok=True)
            words = shared / "tokenizer"
            dataset_stage(recipe.dataset, shared / "corpus", words, dataset).run(lambda text: None)
        return Data(shared / "tokenizer", shared / "dataset", dataset)

    def _time_left(self) -> str:
        if self._flops <= 0:
            return ""
        runs = self._total - self._done + 1
        seconds = runs * self._budget * self._seconds / self._flops
        return f"; about {human_seconds(seconds)} left"


def write_results(result: Ablation, folder: Path) -> None:
    """All numbers as JSON, the table as Markdown, and with its picture as a page."""
    write_json(folder / "ablation.json", result.to_json())
    write_atomic(folder / "ablation.md", markdown_page(result))
    write_atomic(folder / "ablation.html", ablation_page(result))
