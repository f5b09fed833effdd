"""What optimizers of whole matrices have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class MatrixOptimizer(Optimizer):
    """Updates matrices (rows, columns), or stacks of them (..., rows, columns), as wholes.

    A piece of a matrix has other singular vectors than the whole, so sharded training must give it
    whole ones; `whole_matrices` says so.
    """

    whole_matrices = True

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim < 2:
                    name, shape = type(self).__name__, tuple(parameter.shape)
                    raise ValueError(f"{name} takes matrices, not shape {shape}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update of all matrices that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._step_group(group, weights)
        return loss

    def _step_group(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        """Update some of a group's matrices; each has a gradient."""
        raise AssertionError("a subclass says how")
