"""Which parameters are treated alike: matrices of blocks, embeddings, the head, and vectors; and
the few of the fastest models that each want a rate of their own."""

from __future__ import annotations

from typing import Literal

from torch import nn

Kind = Literal["matrix", "embedding", "head", "scalar", "value", "stream", "skip", "mix"]
KINDS: tuple[Kind, ...] = (
    *("matrix", "embedding", "head", "scalar"),
    *("value", "stream", "skip", "mix"),
)
UNDECAYED = ("scalar", "stream", "skip", "mix")
# Ends of names, and names of the modules outside of the blocks.
BY_END: dict[str, Kind] = {
    ".values.table.weight": "value",
    ".residual.stream": "stream",
    ".residual.skip": "skip",
}
BY_MODULE: dict[str, Kind] = {"smear": "mix", "backout": "mix"}


def parameter_kinds(model: nn.Module) -> dict[str, Kind]:
    """The kind of every trainable parameter, by name, in the model's order.

    ``scalar``: fewer than two dimensions (norms, biases). ``embedding``: the table of a module
    whose class is called ...Embedding, a table of biases (``blocks.3.attention.bias``), or one
    with "embed" or "position" in its name (a head tied to it is the same parameter). ``matrix``:
    two or more dimensions inside a numbered block (``blocks.3...``). ``head``: any other matrix,
    such as the output projection.

    Of the fastest models: ``value``: tables of value embeddings. ``stream`` and ``skip``: the two
    factors before each block. ``mix``: smear and backout.
    """
    tables = {
        id(parameter)
        for module in model.modules()
        if "embedding" in type(module).__name__.lower()
        for parameter in module.parameters(recurse=False)
    }
    kinds: dict[str, Kind] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        own = _own_kind(name)
        if own is not None:
            kinds[name] = own
        elif parameter.ndim < 2:
            kinds[name] = "scalar"
        elif id(parameter) in tables or name.endswith(".bias"):
            kinds[name] = "embedding"
        elif any(part.isdigit() for part in name.split(".")):
            kinds[name] = "matrix"
        elif "embed" in name or "position" in name:
            kinds[name] = "embedding"
        else:
            kinds[name] = "head"
    return kinds


def _own_kind(name: str) -> Kind | None:
    """The kind that a name says by itself."""
    by_end = (kind for end, kind in BY_END.items() if name.endswith(end))
    return next(by_end, BY_MODULE.get(name.partition(".")[0]))
