"""Which parameters are treated alike: matrices of blocks, embeddings, the head, and vectors."""

from __future__ import annotations

from typing import Literal

from torch import nn

Kind = Literal["matrix", "embedding", "head", "scalar"]
KINDS: tuple[Kind, ...] = ("matrix", "embedding", "head", "scalar")


def parameter_kinds(model: nn.Module) -> dict[str, Kind]:
    """The kind of every trainable parameter, by name, in the model's order.

    ``scalar``: fewer than two dimensions (norms, biases). ``embedding``: the table of a module
    whose class is called ...Embedding, a table of biases (``blocks.3.attention.bias``), or one
    with "embed" or "position" in its name (a head tied to it is the same parameter). ``matrix``:
    two or more dimensions inside a numbered block (``blocks.3...``). ``head``: any other matrix,
    such as the output projection.
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
        if parameter.ndim < 2:
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
