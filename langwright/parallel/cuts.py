"""Which part of each parameter a process holds.

A parameter is cut along a dimension by the processes of a span, and the part may be cut again by
those of another. Cutting follows `torch.chunk`: n rows over k processes are pieces of ceil(n / k),
the last ones shorter or empty. The same table serves initialisation, checkpoints and the norm.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from langwright.parallel.layout import Layout


@dataclass(frozen=True)
class Cut:
    """The processes of `span` share out dimension `dim`."""

    span: str
    dim: int


@dataclass(frozen=True)
class Part:
    """One process's part of a parameter: its cuts, in the order in which they were made."""

    shape: tuple[int, ...]  # of the whole
    cuts: tuple[Cut, ...] = ()
    held_by: int | None = None  # copies of each piece in the run; None: whatever the cuts leave
    spare: bool = False  # another stage of the pipeline has it too, and counts as its owner

    def cut(self, span: str, dim: int) -> Part:
        """The same, cut once more."""
        return replace(self, cuts=(*self.cuts, Cut(span, dim)))

    def bounds(self, layout: Layout, rank: int | None = None) -> tuple[slice, ...]:
        """Where the part of a process (default: this one) lies in the whole."""
        spans = [slice(0, size) for size in self.shape]
        for cut in self.cuts:
            number = layout.rank(cut.span) if rank is None else layout_at(layout, rank, cut.span)
            spans[cut.dim] = piece(spans[cut.dim], layout.size(cut.span), number)
        return tuple(spans)

    def take(self, whole: Tensor, layout: Layout) -> Tensor:
        """This process's part of the whole tensor, a view."""
        return whole[self.bounds(layout)] if self.shape else whole

    def offset(self, layout: Layout) -> tuple[int, ...]:
        """First index of the part in each dimension."""
        return tuple(bound.start for bound in self.bounds(layout))

    def copies(self, layout: Layout) -> int:
        """How many processes of the run hold this very piece (pipeline ranks hold others)."""
        if self.held_by is not None:
            return self.held_by
        pieces = 1
        for cut in self.cuts:
            pieces *= layout.size(cut.span)
        return layout.world.size // (layout.pp * pieces)


def piece(whole: slice, count: int, number: int) -> slice:
    """Part `number` of `count` of a range, as torch.chunk cuts it."""
    length = whole.stop - whole.start
    step = -(-length // count)
    start = min(length, number * step)
    return slice(whole.start + start, whole.start + min(length, start + step))


def layout_at(layout: Layout, rank: int, span: str) -> int:
    """The number of another process along a span."""
    return Layout(layout.config, replace(layout.world, rank=rank), layout.sizes).rank(span)


def assemble(pieces: Iterable[tuple[Sequence[slice], Tensor]], whole: Tensor) -> Tensor:
    """Write pieces into the whole, each at its bounds."""
    with torch.no_grad():
        for bounds, tensor in pieces:
            whole[tuple(bounds)] = tensor
    return whole
