"""One matrix for each group of rows: the product that a mixture of experts needs.

The rows stand sorted by expert, so each expert's are one slice, and its product one ordinary matrix
product over no more rows than were sent to it. As an operator of its own it is one node for
torch.compile, whatever the number of rows; its gradient of the weights is written expert by expert
into one tensor (E, O, I), where indexing `weight[e]` would make one of that size for every expert.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.library.custom_op(
    "langwright::grouped_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor counts) -> Tensor",
)
def grouped_linear(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """``x[rows of e] @ weight[e].T`` in the dtype of `x`.

    x (M, I), sorted by expert; weight (E, O, I) in any dtype; counts (E,) int64, the rows of each
    expert, M in all -> (M, O).
    """
    out = x.new_empty(x.shape[0], weight.shape[1])
    for expert, rows in _groups(counts):
        out[rows] = F.linear(x[rows], weight[expert].to(x.dtype))
    return out


@torch.library.custom_op(
    "langwright::grouped_linear_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor weight, Tensor counts) -> (Tensor, Tensor)",
)
def grouped_linear_backward(
    grad: Tensor, x: Tensor, weight: Tensor, counts: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of x (M, I) and weight (E, O, I) from the output's (M, O). An expert without rows
    has the gradient 0."""
    grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
    for expert, rows in _groups(counts):
        grad_x[rows] = grad[rows] @ weight[expert].to(grad.dtype)
        grad_weight[expert] = grad[rows].T @ x[rows]
    return grad_x, grad_weight


def _groups(counts: Tensor) -> Iterator[tuple[int, slice]]:
    """(expert, its rows) of every expert that has any."""
    start = 0
    for expert, count in enumerate(counts.tolist()):
        if count:
            yield expert, slice(start, start + count)
        start += count


@grouped_linear.register_fake
def _(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


@grouped_linear_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight)


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor):  # type: ignore[no-untyped-def]
    return *grouped_linear_backward(grad, *ctx.saved_tensors), None


grouped_linear.register_autograd(_backward, setup_context=_setup)
