"""A recipe: the settings of every stage, from one TOML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from langwright.base import Config, UserError, config_error
from langwright.corpus import CorpusConfig
from langwright.dataset import DatasetConfig
from langwright.evaluate import EvaluateConfig
from langwright.formats import peek_model
from langwright.model import ModelConfig, model_config
from langwright.posttrain import SFTConfig
from langwright.recipe.dial import DIALS, LENGTHS, DialConfig, with_dial
from langwright.recipe.overrides import (
    apply_override,
    full_path,
    open_tables,
    parse_override,
    setting_paths,
    unset_nones,
)
from langwright.recipe.toml import KeyPath, line_of, read_toml
from langwright.tokenizer import TokenizerConfig
from langwright.train import PretrainConfig

SEEDED = ("corpus", "tokenizer", "dataset", "pretrain", "sft", "evaluate")
# Of a model that is trained further.
CHANGEABLE = ("context_length", "dropout_embedding", "dropout_attention", "dropout_residual")
_ANY_VOCABULARY = 2**16  # stands in while the tokenizer does not exist yet


class ReportConfig(Config):
    """What the report shows."""

    title: str | None = Field(None, description="heading of the report; none: the recipe's name")
    samples: int = Field(6, description="how many of the samples over time are shown", ge=0)


class Recipe(Config):
    """From raw text to an answering model: one section for each stage."""

    name: str = Field(
        "", description="name of the run and of its folder; empty: the file's own name"
    )
    seed: int = Field(1, description="seed of every stage that names none of its own", ge=0)
    corpus: CorpusConfig = Field(
        default_factory=CorpusConfig, description="which texts, and how they are split"
    )
    tokenizer: TokenizerConfig = Field(
        default_factory=TokenizerConfig, description="how text becomes token ids"
    )
    dataset: DatasetConfig = Field(
        default_factory=DatasetConfig, description="how ids become training rows"
    )
    model: dict[str, Any] = Field(
        default_factory=dict, description="architecture: a preset and changes to it"
    )
    dial: DialConfig | None = Field(
        None, description="depth or a budget, from which the shape and the training follow"
    )
    pretrain: PretrainConfig = Field(
        default_factory=PretrainConfig, description="training on plain text"
    )
    sft: SFTConfig | None = Field(
        None, description="training on conversations; left out: no assistant, a base model only"
    )
    evaluate: EvaluateConfig | None = Field(
        None, description="how good it is, measured on held-out text; left out: not measured"
    )
    report: ReportConfig = Field(default_factory=ReportConfig, description="the page about the run")

    def architecture(self, vocab_size: int | None = None) -> ModelConfig:
        """The model that the [model] section describes, for a vocabulary of this size; that of
        `pretrain.start_from`, once there is one."""
        start = self.pretrain.start_from
        if start is not None and Path(start).expanduser().exists():
            return started_architecture(self, Path(start).expanduser())
        if vocab_size is None and "vocab_size" not in self.model:
            vocab_size = _ANY_VOCABULARY
        table = {"context_length": self.dataset.sequence_length, **self.model}
        return model_config(table, vocab_size=vocab_size, where="[model]")


def load_recipe(
    path: str | Path, overrides: Sequence[str] = (), *, name: str | None = None
) -> Recipe:
    """Read and check a recipe.

    Args:
        path: a TOML file.
        overrides: settings such as ``"pretrain.lr=3e-4"``; they win over the file.
        name: of the run; wins over the file's.

    Raises:
        UserError: for anything wrong, naming file, line, section and field.
    """
    path = Path(path)
    values, lines = read_toml(path)
    given: dict[KeyPath, str] = {}
    for text in overrides:
        keys, value = parse_override(text)
        full = full_path(keys, known_settings(), open_tables(Recipe))
        values = apply_override(values, full, value)
        for either in (LENGTHS, DIALS):  # one takes the place of the file's other one
            for other in either if full[-1] in either and value != "none" else ():
                if other != full[-1] and (*full[:-1], other) not in given:
                    _drop(values, (*full[:-1], other))
        given[full] = text
    values["name"] = name or values.get("name") or path.stem
    return check_recipe(values, Places(str(path), lines, given))


def check_recipe(values: dict[str, Any], places: Places) -> Recipe:
    """Validate a recipe's values; errors say where the wrong one stands."""
    try:
        recipe = Recipe.model_validate(_with_seed(with_dial(_unset(values), places.given)))
    except ValidationError as error:
        first = tuple(str(part) for part in error.errors()[0]["loc"])
        raise _placed(config_error(Recipe, error), first, places) from None
    if not recipe.name.strip(".") or any(c in recipe.name for c in "/\\\0"):
        raise UserError(
            "a run's name becomes a folder name",
            where=places.of(("name",)),
            found=repr(recipe.name),
            expected="letters, digits, '-', '_' or '.'",
        )
    _check_model(recipe, places)
    return recipe


def started_architecture(recipe: Recipe, folder: Path) -> ModelConfig:
    """The shape of a model that is trained further; [model] may change what weights do not show."""
    config = peek_model(folder).config
    changes = {key: value for key, value in recipe.model.items() if key != "preset"}
    for key in changes:
        if key not in CHANGEABLE:
            raise UserError(
                "the model to start from decides this",
                where=f"[model] {key}",
                expected="one of " + ", ".join(CHANGEABLE),
                fix="leave it out, or leave out pretrain.start_from",
            )
    longer = max(config.context_length, recipe.dataset.sequence_length)
    return config.replace(**{"context_length": longer, **changes})


class Places:
    """Where each setting came from: a line of the file, or an option of the command line."""

    def __init__(
        self, file: str, lines: Mapping[KeyPath, int], given: Mapping[KeyPath, str]
    ) -> None:
        self.file = file
        self.lines = lines
        self.given = given

    def of(self, path: KeyPath) -> str:
        """``recipe.toml:12 [pretrain] steps`` or ``--set pretrain.steps=x``."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.given:
                return f"--set {self.given[path[:length]]}"
        line = line_of(self.lines, path)
        where = f"{self.file}:{line}" if line is not None else self.file
        *sections, field = path or ("",)
        return f"{where} [{'.'.join(sections)}] {field}" if sections else f"{where} {field}".strip()


def known_settings() -> list[KeyPath]:
    """Every setting of a recipe, those of the model included."""
    model = [("model", name) for name in ("preset", *ModelConfig.model_fields)]
    return [*setting_paths(Recipe), *model]


def _unset(values: dict[str, Any]) -> dict[str, Any]:
    """The values with "none" as None where that is meant, those of the model included."""
    values = unset_nones(values, Recipe)
    if isinstance(values.get("model"), dict):
        values["model"] = unset_nones(values["model"], ModelConfig)
    return values


def _with_seed(values: dict[str, Any]) -> dict[str, Any]:
    """The top-level seed, given to each section that can use one and does not name its own."""
    seed = values.get("seed", Recipe.model_fields["seed"].default)
    values = dict(values)
    for section in SEEDED:
        inner = values.get(section, {} if section not in ("sft", "evaluate") else None)
        config = _section_config(section)
        if isinstance(inner, dict) and "seed" not in inner and "seed" in config.model_fields:
            values[section] = {**inner, "seed": seed}
    return values


def _drop(values: dict[str, Any], path: KeyPath) -> None:
    for key in path[:-1]:
        values = values.get(key, {})
    values.pop(path[-1], None)


def _section_config(section: str) -> type[Config]:
    configs: dict[str, type[Config]] = {
        "corpus": CorpusConfig,
        "tokenizer": TokenizerConfig,
        "dataset": DatasetConfig,
        "pretrain": PretrainConfig,
        "sft": SFTConfig,
        "evaluate": EvaluateConfig,
    }
    return configs[section]


def _placed(error: UserError, path: KeyPath, places: Places) -> UserError:
    """The same error with the place of the setting in front."""
    return UserError(
        error.message,
        where=places.of(path),
        found=error.found,
        expected=error.expected,
        fix=error.fix,
    )


def _check_model(recipe: Recipe, places: Places) -> None:
    """Find a mistake in [model] now, not after the tokenizer has been trained."""
    try:
        config = recipe.architecture()
    except UserError as error:
        named = [key for key in recipe.model if key in str(error)]
        path = ("model", max(named, key=len)) if named else ("model",)
        raise _placed(error, path, places) from None
    length = recipe.dataset.sequence_length
    if length > config.context_length:
        raise UserError(
            "rows are longer than what the model is made to see at once",
            where=places.of(("dataset", "sequence_length")),
            found=f"dataset.sequence_length = {length}, "
            f"model.context_length = {config.context_length}",
            expected="a context_length of at least sequence_length",
            fix=f"model.context_length = {length}, or leave it out: it follows from the rows",
        )
