"""Which layers see everything and which only a window, in transformers' words and in ours.

Its ``sliding_window`` counts the token itself, as our `window` does.
"""

from __future__ import annotations

from typing import Any

from langwright.base import UserError
from langwright.formats.families.common import unsupported
from langwright.model import ModelConfig

WORDS = {"full_attention": "global", "sliding_attention": "local"}


def read_reach(kinds: list[str], window: int | None, layers: int, where: object) -> dict[str, Any]:
    """``layer_types`` and ``sliding_window`` as fields of `ModelConfig`."""
    if len(kinds) != layers:
        raise UserError(
            "layer_types names another number of layers than num_hidden_layers",
            where=where,
            found=len(kinds),
            expected=layers,
        )
    for kind in kinds:
        if kind not in WORDS:
            raise unsupported("layer_types", kind, where)
    if "sliding_attention" not in kinds:
        return {"window": None, "reach": None}
    if window is None:
        raise UserError(
            "layer_types has sliding layers, but sliding_window is missing", where=where
        )
    if all(kind == "sliding_attention" for kind in kinds):
        return {"window": window, "reach": None}
    return {"window": window, "reach": shortest_period([WORDS[kind] for kind in kinds])}


def shortest_period(values: list[Any]) -> tuple[Any, ...]:
    """The shortest start of `values` that gives all of them when it is repeated."""
    for length in range(1, len(values) + 1):
        if all(value == values[i % length] for i, value in enumerate(values)):
            return tuple(values[:length])
    return ()


def write_layer_types(config: ModelConfig) -> list[str]:
    """``layer_types``, one for each layer."""
    names = {False: "full_attention", True: "sliding_attention"}
    return [names[config.is_local(layer)] for layer in range(config.layers)]
