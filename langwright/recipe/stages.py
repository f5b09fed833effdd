"""The stages: what each needs, where it puts its artifact, when it must run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langwright.base import (
    Manifest,
    can_continue,
    environment,
    key_parts,
    run_stage,
    say,
    why_stale,
)
from langwright.corpus import CorpusConfig, build_corpus, skipped_line
from langwright.dataset import DatasetConfig, build_dataset
from langwright.evaluate import EvaluateConfig, evaluate
from langwright.model import ModelConfig
from langwright.posttrain import SFTConfig, sft
from langwright.recipe.config import Recipe
from langwright.recipe.sources import source_fingerprint
from langwright.tokenizer import TokenizerConfig, build_tokenizer, load_tokenizer
from langwright.train import PretrainConfig, pretrain

# Raised by hand when a stage's code gives another result for the same settings and inputs.
VERSIONS = {
    "corpus": "1",
    "tokenizer": "1",
    "dataset": "1",
    "pretrain": "1",
    "sft": "1",
    "evaluate": "1",
}

# Of a training: they may change without a new training, even in the middle of one.
HOUSEKEEPING = frozenset(
    {
        "checkpoint_minutes",
        "checkpoint_every",
        "keep_last",
        "log_every",
        "max_bad_steps",
        "spike_threshold",
        "statistics_every",
        "profile_at",
        "profile_steps",
        "tensorboard",
        "wandb",
        "trackio",
        "parallel",
    }
)


@dataclass(frozen=True)
class Stage:
    """One step from inputs to an artifact."""

    name: str
    out: Path
    config: dict[str, Any]
    work: Callable[[Path], dict[str, Any]]
    inputs: dict[str, str | Path] = field(default_factory=dict)
    ignore: frozenset[str] = frozenset()  # settings that do not decide the result

    def stale(self) -> str | None:
        """Why it must run; None if its artifact is up to date. Its inputs must exist."""
        return why_stale(self.out, key_parts=self._parts(), ignore=self.ignore)

    def can_continue(self) -> bool:
        """Whether it was interrupted and can go on. Its inputs must exist."""
        return can_continue(self.out, key_parts=self._parts())

    def _parts(self) -> dict[str, Any]:
        return key_parts(
            self.name,
            config=self.config,
            inputs=self.inputs,
            version=VERSIONS[self.name],
            ignore=self.ignore,
        )

    def run(self, tell: Callable[[str], None] = say) -> Manifest:
        """Make the artifact, unless it is there already."""
        manifest = run_stage(
            self.name,
            self.out,
            self.work,
            config=self.config,
            inputs=self.inputs,
            version=VERSIONS[self.name],
            ignore=self.ignore,
            environment=environment(),
            say=tell,
        )
        if self.name == "corpus":
            line = skipped_line(manifest.metrics, self.config["encoding"])
            if line is not None:
                tell(f"corpus: {line}")
        return manifest


def corpus_stage(config: CorpusConfig, out: Path) -> Stage:
    """Raw files to clean, split documents."""
    inputs: dict[str, str | Path] = {"files": source_fingerprint(config)}
    return Stage(
        "corpus", out, config.to_json(), lambda folder: build_corpus(config, folder), inputs
    )


def tokenizer_stage(config: TokenizerConfig, corpus: Path, out: Path) -> Stage:
    """Documents to a vocabulary."""

    def work(folder: Path) -> dict[str, Any]:
        return build_tokenizer(config, corpus, folder)

    inputs: dict[str, str | Path] = {"corpus": corpus}
    if config.path is not None:
        inputs["path"] = Path(config.path).expanduser()
    return Stage("tokenizer", out, config.to_json(), work, inputs)


def dataset_stage(config: DatasetConfig, corpus: Path, tokenizer: Path, out: Path) -> Stage:
    """Documents to token shards."""

    def work(folder: Path) -> dict[str, Any]:
        return build_dataset(config, corpus, tokenizer, folder)

    return Stage("dataset", out, config.to_json(), work, {"corpus": corpus, "tokenizer": tokenizer})


def pretrain_stage(
    config: PretrainConfig,
    architecture: Callable[[int], ModelConfig],
    dataset: Path,
    tokenizer: Path,
    out: Path,
) -> Stage:
    """Token shards to a base model; `architecture` maps the vocabulary's size to the model."""

    def work(folder: Path) -> dict[str, Any]:
        model = architecture(load_tokenizer(tokenizer).vocab_size)
        return pretrain(config, model, dataset, tokenizer, folder)

    settings = {"pretrain": config.to_json(), "model": architecture(0x10000).to_json()}
    settings["model"].pop("vocab_size", None)  # decided by the tokenizer, which is an input
    ignore = frozenset(f"pretrain.{name}" for name in HOUSEKEEPING)
    inputs: dict[str, str | Path] = {"dataset": dataset, "tokenizer": tokenizer}
    if config.start_from is not None:
        inputs["start"] = Path(config.start_from).expanduser()
    return Stage("pretrain", out, settings, work, inputs, ignore)


def sft_stage(config: SFTConfig, model: Path, corpus: Path, out: Path) -> Stage:
    """A base model and conversations to an assistant. `model` is the artifact or model folder."""

    def work(folder: Path) -> dict[str, Any]:
        return sft(config, model_folder(model), corpus, folder)

    inputs: dict[str, str | Path] = {"model": model, "corpus": corpus}
    return Stage("sft", out, config.to_json(), work, inputs, HOUSEKEEPING)


def evaluate_stage(
    config: EvaluateConfig, model: Path, corpus: Path, out: Path, base: Path | None = None
) -> Stage:
    """A model and held-out text to numbers. `base` is the model before it became an assistant."""

    def work(folder: Path) -> dict[str, Any]:
        before = None if base is None else model_folder(base)
        return evaluate(config, model_folder(model), corpus, folder, before)

    inputs: dict[str, str | Path] = {"model": model, "corpus": corpus}
    if base is not None:
        inputs["base"] = base
    return Stage("evaluate", out, config.to_json(), work, inputs)


def recipe_stages(recipe: Recipe, run: Path) -> Iterator[Stage]:
    """The stages of a recipe in their order.

    Whether there is an SFT stage depends on the finished corpus, so each stage has to be looked at
    or run before the next one is asked for.
    """
    corpus, tokenizer, dataset = run / "corpus", run / "tokenizer", run / "dataset"
    yield corpus_stage(recipe.corpus, corpus)
    yield tokenizer_stage(recipe.tokenizer, corpus, tokenizer)
    yield dataset_stage(recipe.dataset, corpus, tokenizer, dataset)
    base = run / "pretrain"
    yield pretrain_stage(recipe.pretrain, recipe.architecture, dataset, tokenizer, base)
    final, before = base, None
    if recipe.sft is not None and has_conversations(corpus):
        final, before = run / "sft", base
        yield sft_stage(recipe.sft, base, corpus, final)
    if recipe.evaluate is not None:
        yield evaluate_stage(recipe.evaluate, final, corpus, run / "evaluate", before)


def has_conversations(corpus: Path) -> bool:
    """Whether a corpus holds conversations to learn from; a corpus still to be made may."""
    if not corpus.exists():
        return True
    path = corpus / "conversations" / "train.jsonl"
    return path.exists() and path.stat().st_size > 0


def model_folder(path: Path) -> Path:
    """The model inside an artifact or a run folder, or the folder itself if it is a model."""
    return path if (path / "config.json").exists() else path / "model"
