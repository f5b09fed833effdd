"""Clipping of gradients by their global norm."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

EPS = 1e-6


def gradient_norm(gradients: list[Tensor]) -> Tensor:
    """The L2 norm of all gradients taken as one long vector; fp32 scalar, 0 for an empty list.

    It is inf or nan exactly if some gradient holds inf or nan, or if the squares overflow.
    """
    if not gradients:
        return torch.zeros(())
    return torch.nn.utils.get_total_norm(gradients, norm_type=2.0).float()


@torch.no_grad()
def clip_gradients(
    parameters: Iterable[Tensor], max_norm: float | None, *, factor: float | Tensor = 1.0
) -> Tensor:
    """Multiply all gradients by `factor`, then shorten them together to at most `max_norm`.

    With n the global norm after `factor`, gradients become ``g * factor * min(1, c / (n + 1e-6))``.
    Directions stay as they are. If n is not finite the gradients are left alone: the caller skips
    the step. Nothing waits for the device unless it is the CPU.

    Args:
        parameters: those without a gradient are passed over.
        max_norm: the limit c; None measures only.
        factor: multiplied in first (one over the loss scale, a correction of the weight).

    Returns:
        The norm n before clipping, a 0-d fp32 tensor on the gradients' device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = gradient_norm(gradients) * factor
    if max_norm is None:
        coefficient = torch.ones_like(norm) * factor
    else:
        coefficient = (max_norm / (norm + EPS)).clamp(max=1.0) * factor
    coefficient = torch.where(torch.isfinite(norm), coefficient, 1.0)
    if norm.device.type == "cpu" and coefficient.item() == 1.0:
        return norm  # spare a pass over all gradients
    if gradients:
        torch._foreach_mul_(gradients, coefficient)
    return norm


def clip_reference(gradients: list[Tensor], max_norm: float, eps: float = EPS) -> float:
    """Clipping written out: the norm of the tensors' norms, then one common factor, in place.

    Returns the norm before clipping. An empty list has norm 0.
    """
    norms = [float(gradient.norm()) for gradient in gradients]
    total = sum(norm**2 for norm in norms) ** 0.5
    if total > max_norm:
        for gradient in gradients:
            gradient.mul_(max_norm / (total + eps))
    return total
