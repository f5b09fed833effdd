"""Muon: momentum, made orthogonal, as the update of each weight matrix."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, Literal

import torch
from torch import Tensor

from langwright.optim.matrices import MatrixOptimizer
from langwright.optim.orthogonal import Method, orthogonalize

# At most this many elements are stacked at once, which bounds the memory of the iterations.
STACK_ELEMENTS = 2**26
TINY = 1e-10  # keeps a zero row, or a zero matrix, at zero


class Muon(MatrixOptimizer):
    """Muon (Keller Jordan, https://kellerjordan.github.io/posts/muon/) for matrices of blocks.

    ``m <- mu m + (1 - mu) g``; ``u = (1 - mu) g + mu m`` with Nesterov, else ``m``; then
    ``w <- w - lr * decay * w - lr * scale * orthogonal(u)``. Matrices of equal shape go through the
    iterations together, in one batched product each, which is what makes it quick for small models.

    Args:
        params: matrices (rows, columns), or stacks of them (..., rows, columns).
        scale: "spectral": sqrt(max(1, rows / columns)), so that the update's effect on activations
            does not depend on the shape (Jordan; Bernstein, arXiv 2502.04549). "adamw_rms":
            0.2 sqrt(max(rows, columns)), so that the update's size equals AdamW's usual one and
            AdamW's rate and decay can be taken over (Moonlight, arXiv 2502.16982, eq. 4).
        cautious_decay: decay a weight only where the update moves it towards zero as well
            (cautious weight decay, arXiv 2510.12402).
        equal_rows: divide each row of u by its length first, so that no neuron's gradient drowns
            the others' in the iterations (MuonEq with rows, as nanochat has it).
        neuron_beta: if given, each neuron's update is divided by the root of its running mean
            square with this decay, and the whole is brought back to its norm: neurons move alike
            (NorMuon, arXiv 2510.05491, algorithm 1). Neurons are the rows of a tall or square
            matrix and the columns of a wide one, as in the speed runs: one number for each place
            on the longer side.
        dtype: arithmetic of the iterations; None: bfloat16 on CUDA, float32 elsewhere.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 0.02,
        *,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        steps: int = 5,
        method: Method = "polar_express",
        scale: Literal["spectral", "adamw_rms"] = "spectral",
        cautious_decay: bool = False,
        equal_rows: bool = False,
        neuron_beta: float | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "steps": steps,
            "method": method,
            "scale": scale,
            "cautious_decay": cautious_decay,
            "equal_rows": equal_rows,
            "neuron_beta": neuron_beta,
        }
        super().__init__(params, defaults)
        self.dtype = dtype
        # Set by the caller before a step: 1.0 where the step must change nothing (a device tensor,
        # so that nobody waits for it), as the library's fused optimizers have it.
        self.found_inf: Tensor | None = None

    def _step_group(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        directions = self._momentum(group, weights)
        for members in _same_shape(weights):
            stack = _stack([directions[i] for i in members])  # (N, rows, columns)
            if group["equal_rows"]:
                stack = stack / stack.norm(dim=-1, keepdim=True).clamp(min=TINY)
            dtype = self.dtype or _fast_dtype(stack.device)
            updates = orthogonalize(
                stack, steps=group["steps"], method=group["method"], dtype=dtype
            ).float()
            chosen = [weights[i] for i in members]
            if group["neuron_beta"] is not None:
                updates = self._even_out(updates, chosen, group["neuron_beta"])
            self._apply(group, chosen, _unstack(updates, chosen))

    def state_shape(self, parameter: Tensor, entry: str, group: dict[str, Any]) -> tuple[int, ...]:
        """The shape of an entry of a parameter's state."""
        *stack, rows, columns = parameter.shape
        if entry != "neurons":
            return tuple(parameter.shape)
        return (*stack, rows, 1) if rows >= columns else (*stack, 1, columns)

    def _even_out(self, updates: Tensor, weights: list[Tensor], beta: float) -> Tensor:
        """Divide each neuron's update by its usual size; (N, rows, columns) -> the same."""
        squares = []
        for weight in weights:
            state = self.state[weight]
            if "neurons" not in state:
                shape = self.state_shape(weight, "neurons", {})
                state["neurons"] = torch.zeros(shape, device=weight.device)
            squares.append(state["neurons"])
        across = -1 if updates.shape[-2] >= updates.shape[-1] else -2
        means = _unstack(updates.square().mean(dim=across, keepdim=True), squares)
        fresh: Any = 1.0 - beta
        if self.found_inf is not None:
            fresh = fresh * (1.0 - self.found_inf)
        torch._foreach_lerp_(squares, means, fresh)
        evened = updates / (_stack(squares).sqrt() + TINY)
        sizes = updates.norm(dim=(-2, -1), keepdim=True)
        return evened * (sizes / evened.norm(dim=(-2, -1), keepdim=True).clamp(min=TINY))

    def _momentum(self, group: dict[str, Any], weights: list[Tensor]) -> list[Tensor]:
        """Bring the momentum of all weights up to date; returns the directions to go."""
        gradients: list[Tensor] = [w.grad for w in weights if w.grad is not None]
        buffers = []
        for weight in weights:
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            buffers.append(state["momentum"])
        fresh = 1.0 - group["momentum"]
        if self.found_inf is not None:
            keep = 1.0 - self.found_inf
            gradients = [torch.where(keep > 0, g, 0.0) for g in gradients]  # nan * 0 is nan
            torch._foreach_lerp_(buffers, gradients, fresh * keep)
        else:
            torch._foreach_lerp_(buffers, gradients, fresh)
        if not group["nesterov"]:
            return buffers
        return list(torch._foreach_lerp(gradients, buffers, group["momentum"]))

    def _apply(self, group: dict[str, Any], weights: list[Tensor], updates: list[Tensor]) -> None:
        lr, decay = group["lr"], group["lr"] * group["weight_decay"]
        rows, columns = weights[0].shape[-2:]
        rate = lr * shape_scale(rows, columns, group["scale"])
        if decay and group["cautious_decay"]:
            moves = [u * rate + w * (decay * (u * w >= 0)) for u, w in zip(updates, weights)]
        elif decay:
            moves = [u * rate + w * decay for u, w in zip(updates, weights)]
        else:
            moves = list(torch._foreach_mul(updates, rate))
        if self.found_inf is not None:
            torch._foreach_mul_(moves, 1.0 - self.found_inf)
        torch._foreach_sub_(weights, moves)


def shape_scale(rows: int, columns: int, scale: str) -> float:
    """The factor by which an orthogonal (rows, columns) update is scaled; see `Muon`."""
    if scale == "adamw_rms":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


def _same_shape(weights: list[Tensor]) -> list[list[int]]:
    """Positions of weights that may be stacked: equal shape, and not too many at once.

    Groups hold one orientation each, since the scale depends on it.
    """
    by_shape: dict[Any, list[int]] = defaultdict(list)
    for i, weight in enumerate(weights):
        by_shape[weight.shape, weight.device].append(i)
    groups = []
    for members in by_shape.values():
        room = max(1, STACK_ELEMENTS // weights[members[0]].numel())
        groups += [members[i : i + room] for i in range(0, len(members), room)]
    return groups


def _stack(matrices: list[Tensor]) -> Tensor:
    """(..., rows, columns) each -> (N, rows, columns)."""
    stacked = torch.stack(matrices)
    return stacked.flatten(0, -3)


def _unstack(stack: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Undo `_stack`: views of the stack in the shapes of `like`."""
    return list(stack.reshape(len(like), *like[0].shape).unbind(0))


def _fast_dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32
