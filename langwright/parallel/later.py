"""Gradients of weights at a later time: the half of the backward pass for which nobody waits.

In a backward pass the gradient of a layer's input is needed at once, by the layer before it; that
of its weight only at the end of the update (Qi et al. 2023, arXiv:2401.10241, section 2).
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.model import Linear


class Later:
    """Products that are still to be made, for the linear layers of one stage."""

    def __init__(self, model: nn.Module) -> None:
        self._open: list[Callable[[], None]] | None = None
        for module in model.modules():
            # Where tensor parallel has put a forward pass of its own, it stays as it is.
            if isinstance(module, Linear) and "forward" not in vars(module):
                module.forward = types.MethodType(_forward(self), module)  # type: ignore[method-assign]

    @contextlib.contextmanager
    def putting_off(self) -> Iterator[list[Callable[[], None]]]:
        """Gradients of weights are not made inside, but by calling what is in the list."""
        self._open = []
        try:
            yield self._open
        finally:
            self._open = None

    def add(self, x: Tensor, grad: Tensor, weight: Tensor) -> bool:
        """Put off ``grad^T x``, to be added to `weight`'s gradient; False: not now."""
        if self._open is None:
            return False
        self._open.append(lambda: _add_gradient(x, grad, weight))
        return True


def _forward(later: Later) -> Any:
    def forward(module: nn.Linear, x: Tensor) -> Tensor:
        bias = None if module.bias is None else module.bias.to(x.dtype)
        return _Product.apply(x, module.weight, bias, later)

    return forward


class _Product(torch.autograd.Function):
    """x (..., I), weight (O, I), bias (O) -> (..., O) in the dtype of x, as `Linear` has it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, later: Later) -> Tensor:
        ctx.save_for_backward(x)
        # Kept outside the graph: its gradient is written by hand. (FSDP fills it anew in place.)
        ctx.weight, ctx.later = weight, later
        return F.linear(x, weight.to(x.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,), grad, weight = ctx.saved_tensors, grads[0], ctx.weight
        by_x = grad @ weight.to(grad.dtype) if ctx.needs_input_grad[0] else None
        by_bias = grad.flatten(0, -2).sum(0) if ctx.needs_input_grad[2] else None
        by_weight = None
        if ctx.needs_input_grad[1] and not ctx.later.add(x, grad, weight):
            by_weight = _weight_gradient(x, grad, weight)
        return by_x, by_weight, by_bias, None


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    return (grad.flatten(0, -2).T @ x.flatten(0, -2)).to(weight.dtype)


@torch.no_grad()
def _add_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> None:
    new = _weight_gradient(x, grad, weight)
    if weight.grad is None:
        weight.grad = new
    else:
        weight.grad += new
