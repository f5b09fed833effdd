"""The norm of a gradient that is spread over processes."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from langwright.optim import gradient_norm

EPS = 1e-6


@torch.no_grad()
def global_norm(pieces: Iterable[tuple[Tensor, int]], device: torch.device) -> Tensor:
    """The L2 norm over all processes of a gradient given in pieces; 0-d fp32, alike on all.

    Each process gives what it holds, with the number of processes that hold the same piece. The
    squares are divided by it and added up over the world: one collective, whatever the layout.
    """
    by_copies: dict[int, list[Tensor]] = {}
    for piece, copies in pieces:
        by_copies.setdefault(copies, []).append(piece)
    total = torch.zeros((), dtype=torch.float32, device=device)
    for copies, members in by_copies.items():
        total += gradient_norm(members).to(device).square() / copies
    dist.all_reduce(total)
    return total.sqrt()


@torch.no_grad()
def shorten(
    gradients: list[Tensor], norm: Tensor, max_norm: float | None, factor: float | Tensor
) -> Tensor:
    """Multiply by `factor`, then shorten to `max_norm`, as `clip_gradients` does.

    Returns the norm after `factor` and before clipping.
    """
    norm = norm * factor
    coefficient = torch.ones_like(norm) * factor
    if max_norm is not None:
        coefficient = (max_norm / (norm + EPS)).clamp(max=1.0) * factor
    coefficient = torch.where(torch.isfinite(norm), coefficient, 1.0)
    if gradients:
        torch._foreach_mul_(gradients, coefficient.to(gradients[0].device))
    return norm
