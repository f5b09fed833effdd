"""One tensor of a file, and where it lies in a model.

Families differ in how they cut the same weights into tensors: queries, keys and values in one
matrix or three, experts one by one or stacked, matrices as (out, in) or (in, out). A `Rule` says it
once; saving and loading both follow it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """The tensor `theirs` of a file holds the parameters `ours`, one above the other.

    Args:
        theirs: the tensor's name in the file.
        ours: names of parameters, stacked along the first axis in this order.
        transposed: the file has (in, out) where we have (out, in).
        expert: ours are stacked over experts (E, ...), and the tensor is of this one alone; the
            other experts' tensors have rules of their own.
        heads: more than 1: the rows stand head by head, [q1 k1 v1 q2 k2 v2 ...], each of ours
            giving the same number of rows to each head (GPT-NeoX).
    """

    theirs: str
    ours: tuple[str, ...]
    transposed: bool = False
    expert: int | None = None
    heads: int = 1

    def join(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Our parameters as their tensor, contiguous."""
        parts = [parameters[name] for name in self.ours]
        if self.expert is not None:
            parts = [part[self.expert] for part in parts]
        if self.heads > 1:  # (H n, ...) -> (H, n, ...), so that the parts meet within each head
            parts = [part.unflatten(0, (self.heads, -1)) for part in parts]
            whole = torch.cat(parts, dim=1).flatten(0, 1)
        else:
            whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return (whole.T if self.transposed else whole).contiguous()

    def shape(self, shapes: Mapping[str, torch.Size]) -> tuple[int, ...]:
        """The shape their tensor must have, from the shapes of ours."""
        pieces = [self._piece(shapes[name]) for name in self.ours]
        joined = (sum(piece[0] for piece in pieces), *pieces[0][1:])
        return joined[::-1] if self.transposed else joined

    def split(self, tensor: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Their tensor as our parameters, as views of it where possible; with `expert`, as that
        expert's entry of our parameters, (...) of (E, ...)."""
        whole = tensor.T if self.transposed else tensor
        rows = [self._piece(shapes[name])[0] for name in self.ours]
        if self.heads > 1:
            whole = whole.unflatten(0, (self.heads, -1))
            cut = whole.split([n // self.heads for n in rows], dim=1)
            parts = tuple(part.flatten(0, 1) for part in cut)
        else:
            parts = whole.split(rows)
        return {name: part.contiguous() for name, part in zip(self.ours, parts, strict=True)}

    def _piece(self, shape: torch.Size) -> tuple[int, ...]:
        return tuple(shape[1:] if self.expert is not None else shape)


def own_rules(parameters: Iterable[str]) -> list[Rule]:
    """Our own names, unchanged."""
    return [Rule(name, (name,)) for name in parameters]


def renamed(
    parameters: Iterable[str],
    words: Mapping[str, str],
    *,
    layers: str = "model.layers",
    stacked: Mapping[str, str] | None = None,
    experts: int = 0,
) -> list[Rule]:
    """Rules that give each parameter another name.

    Args:
        parameters: our names.
        words: our module, or our whole name, within a block or outside of all -> theirs.
        layers: what stands before the number of a layer.
        stacked: our parameters that hold all experts (E, ...) -> theirs of one expert, with
            "{expert}" where its number stands.
        experts: E.
    """
    rules = []
    for name in parameters:
        prefix, inner = "", name
        if name.startswith("blocks."):
            _, layer, inner = name.split(".", 2)
            prefix = f"{layers}.{layer}."
        if stacked and inner in stacked:
            rules += [
                Rule(prefix + stacked[inner].format(expert=number), (name,), expert=number)
                for number in range(experts)
            ]
        elif inner in words:
            rules.append(Rule(prefix + words[inner], (name,)))
        else:
            module, _, kind = inner.rpartition(".")
            rules.append(Rule(f"{prefix}{words[module]}.{kind}", (name,)))
    return rules
