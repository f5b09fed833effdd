"""The [dial] section: one number from which the model's shape and the training's length follow."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from typing import Any, Self

from pydantic import Field, model_validator

from langwright.base import Config, UserError
from langwright.dataset import DatasetConfig
from langwright.plan import TOKENS_PER_PARAMETER, Dialled, dial_depth, dial_flops
from langwright.recipe.toml import KeyPath
from langwright.tokenizer import TokenizerConfig

GPT2_VOCABULARY = 50257
TRAINED = ("bpe", "unigram", "wordpiece", "word")  # tokenizers whose size the recipe decides
LENGTHS = ("steps", "tokens", "epochs", "minutes")  # of a training: one of them
DIALS = ("depth", "flops")  # one of them


class DialConfig(Config):
    """Depth, or a budget; width, heads, batch, rates, decay and tokens follow (plan/dial.py).

    What the recipe says itself in [model] and [pretrain] stays as it says.
    """

    depth: int | None = Field(None, description="number of layers; 12 is about GPT-2 small", ge=1)
    flops: float | None = Field(
        None, description="budget of the training in FLOPs, instead of depth", gt=0
    )
    tokens_per_parameter: float = Field(
        TOKENS_PER_PARAMETER,
        description="training tokens for each parameter of the blocks' matrices and the head",
        gt=0,
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.depth is None) == (self.flops is None):
            raise ValueError("give depth or flops")
        return self


def with_dial(values: dict[str, Any], given: Collection[KeyPath] = ()) -> dict[str, Any]:
    """A recipe's values with those that follow from its [dial].

    Args:
        values: as read from the file, the command line's settings put in.
        given: paths of the settings of the command line. A dial that stands in the file fills in
            what the file leaves open; one from the command line replaces what the file says, but
            not other settings of the command line.

    Raises:
        UserError: the dial is out of range, or the vocabulary is not known.
    """
    if values.get("dial") is None:
        return values
    dialled = turn(DialConfig.parse(values["dial"], where="[dial]"), values)
    by_hand = any(path[0] == "dial" for path in given)
    result = copy.deepcopy(values)
    settings = dialled.settings()
    pretrain = result.setdefault("pretrain", {})
    if pretrain.get("optimizer", {}).get("name", "muon") != "muon":  # the rates are Muon's
        settings["pretrain"].pop("optimizer")
    asked = [name for name in LENGTHS if ("pretrain", name) in given]
    if by_hand and all(pretrain.get(name) is None for name in asked):
        for name in LENGTHS:
            pretrain.pop(name, None)
    if any(pretrain.get(name) is not None for name in LENGTHS):
        settings["pretrain"].pop("tokens")
    for path, value in _leaves(settings):
        table = result
        for key in path[:-1]:
            table = table.setdefault(key, {})
        if table.get(path[-1]) is None or (by_hand and path not in given):
            table[path[-1]] = value
    return result


def turn(dial: DialConfig, values: dict[str, Any]) -> Dialled:
    """What follows from the dial for a recipe's values."""
    table = {k: v for k, v in values.get("model", {}).items() if v is not None}
    table.setdefault("vocab_size", vocabulary(values))
    default = DatasetConfig.model_fields["sequence_length"].default
    length = values.get("dataset", {}).get("sequence_length", default)
    table.setdefault("context_length", length)
    common = {"sequence_length": length, "tokens_per_parameter": dial.tokens_per_parameter}
    if dial.flops is not None:
        return dial_flops(dial.flops, table, **common)
    assert dial.depth is not None
    return dial_depth(dial.depth, table, **common)


def vocabulary(values: dict[str, Any]) -> int:
    """Token ids of a recipe's model, as far as the recipe tells.

    Raises:
        UserError: it depends on the text, or on a file.
    """
    named = values.get("model", {}).get("vocab_size")
    if named is not None:
        return int(named)
    tokenizer = values.get("tokenizer", {})
    kind = tokenizer.get("kind", TokenizerConfig.model_fields["kind"].default)
    if kind == "gpt2":
        return GPT2_VOCABULARY
    if kind in TRAINED:
        return int(tokenizer.get("vocab_size", TokenizerConfig.model_fields["vocab_size"].default))
    raise UserError(
        "the size of the vocabulary is not known before the tokenizer is made",
        where="[model] vocab_size",
        found=f"tokenizer of kind {kind!r}",
        fix="give model.vocab_size",
    )


def _leaves(settings: dict[str, Any], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """(path, value) of every setting in nested tables."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*prefix, key))
        else:
            yield (*prefix, key), value
