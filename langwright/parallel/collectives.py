"""Collective operations with gradients, for activations that processes share out or have alike.

Each is a pair: what happens to values on the way forward, and to gradients on the way back.

    sum_forward     add up partial values        | gradients pass
    sum_backward    values pass                  | add up partial gradients
    gather          join parts along a dimension | add up and share out gradients
    gather_alike    join parts along a dimension | take the own part (all have equal gradients)
    scatter         take the own part            | join gradients
    reduce_scatter  add up and share out         | join gradients

Megatron-LM, Shoeybi et al. 2019, arXiv:1909.08053 (f and g), and Korthikanti et al. 2022,
arXiv:2205.05198 (sequence parallel).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Torch 2.13 has new names for these two, and warns at the old ones.
_all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
_reduce_scatter = getattr(dist, "reduce_scatter_single", dist.reduce_scatter_tensor)


def add_up(x: Tensor, group: Any) -> Tensor:
    """Sum over the group, a new tensor."""
    out = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(out, group=group)
    return out


def join(x: Tensor, dim: int, group: Any) -> Tensor:
    """Parts of equal size, one after another along `dim`."""
    count = dist.get_world_size(group)
    front = x.movedim(dim, 0).contiguous()
    out = front.new_empty((count * front.shape[0], *front.shape[1:]))
    _all_gather(out, front, group=group)
    return out.movedim(0, dim)


def own(x: Tensor, dim: int, group: Any) -> Tensor:
    """This process's part along `dim`, of equal size on all."""
    return x.chunk(dist.get_world_size(group), dim)[dist.get_rank(group)]


def add_up_and_share(x: Tensor, dim: int, group: Any) -> Tensor:
    """The own part along `dim` of the sum over the group."""
    count = dist.get_world_size(group)
    front = x.movedim(dim, 0).contiguous()
    out = front.new_empty((front.shape[0] // count, *front.shape[1:]))
    _reduce_scatter(out, front, group=group)
    return out.movedim(0, dim)


class _SumForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        return add_up(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _SumBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return add_up(grads[0], ctx.group), None


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Any) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return join(x, dim, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return add_up_and_share(grads[0], ctx.dim, ctx.group), None, None


class _GatherAlike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Any) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return join(x, dim, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return own(grads[0], ctx.dim, ctx.group).contiguous(), None, None


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Any) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return own(x, dim, group).contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return join(grads[0], ctx.dim, ctx.group), None, None


class _ReduceScatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, group: Any) -> Tensor:
        ctx.dim, ctx.group = dim, group
        return add_up_and_share(x, dim, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return join(grads[0], ctx.dim, ctx.group), None, None


def sum_forward(x: Tensor, group: Any) -> Tensor:
    """Partial values -> their sum, alike on all."""
    return _SumForward.apply(x, group)


def sum_backward(x: Tensor, group: Any) -> Tensor:
    """A value alike on all that each uses for a part of the work."""
    return _SumBackward.apply(x, group)


def gather(x: Tensor, dim: int, group: Any) -> Tensor:
    """Parts along `dim` -> the whole, of which each does a part of the work."""
    return _Gather.apply(x, dim, group)


def gather_alike(x: Tensor, dim: int, group: Any) -> Tensor:
    """Parts along `dim` -> the whole, on which all do the same work."""
    return _GatherAlike.apply(x, dim, group)


def scatter(x: Tensor, dim: int, group: Any) -> Tensor:
    """A value alike on all -> the own part along `dim`."""
    return _Scatter.apply(x, dim, group)


def reduce_scatter(x: Tensor, dim: int, group: Any) -> Tensor:
    """Partial values -> the own part along `dim` of their sum."""
    return _ReduceScatter.apply(x, dim, group)
