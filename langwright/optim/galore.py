"""GaLore: Adam's moments in a small space that follows the gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from langwright.optim.matrices import MatrixOptimizer


class GaLore(MatrixOptimizer):
    """AdamW whose moments are kept for the gradient's projection on r directions.

    Zhao et al. 2024 (arXiv:2403.03507, algorithm 1): for a matrix (m, n) with m <= n the gradient G
    becomes R = P^T G with P (m, r) the first left singular vectors of a recent G; Adam's direction
    N(R) goes back as ``alpha P N(R)``. Tall matrices are projected from the right. The moments need
    2 r n numbers in place of 2 m n, and P another m r. Every `update_every` steps P is made anew;
    the moments stay as they are, as in the authors' code.

    Args:
        params: matrices (rows, columns), or stacks of them (..., rows, columns).
        rank: r; at most min(rows, columns) is used.
        update_every: steps between two choices of P.
        scale: alpha.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        rank: int = 128,
        update_every: int = 200,
        scale: float = 0.25,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "rank": rank,
            "update_every": update_every,
            "scale": scale,
        }
        super().__init__(params, defaults)

    def _step_group(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for weight in weights:
            assert weight.grad is not None
            self._update(weight, weight.grad, group)

    def state_shape(self, parameter: Tensor, entry: str, group: dict[str, Any]) -> tuple[int, ...]:
        """The shape of an entry of a parameter's state."""
        *stack, rows, columns = parameter.shape
        rank = min(group["rank"], rows, columns)
        if entry == "projection":
            return (*stack, min(rows, columns), rank)
        return (*stack, rank, columns) if rows <= columns else (*stack, rows, rank)

    def _update(self, w: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        state, g = self.state[w], g.float()
        step = state.setdefault("step", 0)
        if step % group["update_every"] == 0:
            state["projection"] = projection(g, group["rank"])
        p = state["projection"]  # (..., min(m, n), r)
        wide = w.shape[-2] <= w.shape[-1]
        low = p.mT @ g if wide else g @ p  # (..., r, n) or (..., m, r)
        if "mean" not in state:
            state["mean"], state["square"] = torch.zeros_like(low), torch.zeros_like(low)
        beta1, beta2 = group["betas"]
        state["step"] = step = step + 1
        state["mean"].lerp_(low, 1.0 - beta1)
        state["square"].mul_(beta2).addcmul_(low, low, value=1.0 - beta2)
        root = (state["square"] / (1.0 - beta2**step)).sqrt_().add_(group["eps"])
        direction = state["mean"] / (1.0 - beta1**step) / root
        update = p @ direction if wide else direction @ p.mT  # (..., m, n)
        w.mul_(1.0 - group["lr"] * group["weight_decay"])
        w.add_(update.to(w.dtype), alpha=-group["lr"] * group["scale"])


def projection(gradient: Tensor, rank: int) -> Tensor:
    """The `rank` strongest directions of the gradient's shorter side, orthonormal.

    gradient (..., m, n) -> (..., min(m, n), r). A singular vector's sign is arbitrary, and rounding
    can turn it; moments are kept when P is made anew, so it must be the same wherever it is made:
    the largest number of each direction is positive.
    """
    rank = min(rank, *gradient.shape[-2:])
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    wide = gradient.shape[-2] <= gradient.shape[-1]
    directions = u[..., :rank] if wide else vh[..., :rank, :].mT
    largest = directions.gather(-2, directions.abs().argmax(-2, keepdim=True))  # (..., 1, r)
    return (directions * largest.sign()).contiguous()
