"""Cross entropy: how surprised the model was, in nats.

The loss of a language model is the mean of -log p(next token). `cross_entropy_reference` writes it
out; `linear_cross_entropy` computes head and loss together, a few tokens at a time, so that the
logits (B T, V), the largest tensor of a training step, never stand whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100  # a target that does not count

# Logits (n, V), targets (n,) and whether a gradient is wanted -> loss sum and the gradient by the
# logits, which are used up.
Rule = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]


def at_least_fp32(dtype: torch.dtype) -> torch.dtype:
    """fp32 for sums and exponentials; float64 stays, so that gradients can be checked in it."""
    return torch.promote_types(dtype, torch.float32)


def cross_entropy_reference(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[target] in nats: logits (..., V), targets (...) -> scalar.

    Subtracting the row's maximum changes nothing (softmax is invariant to a constant) and keeps
    exp() finite: log p_y = (z_y - m) - log sum_j exp(z_j - m). Every target counts.
    """
    shifted = logits - logits.max(dim=-1, keepdim=True).values  # (..., V)
    log_sum = shifted.exp().sum(dim=-1).log()  # (...)
    picked = shifted.gather(-1, targets[..., None])[..., 0]  # (...)
    return (log_sum - picked).mean()


def head_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None = None, softcap: float | None = None
) -> Tensor:
    """The head: ``hidden @ weight.T + bias``, then c tanh(z / c) where there is a cap c.

    hidden (..., D) in the compute dtype, weight (V, D), bias (V,) -> logits (..., V), at least
    fp32. The cap (Bello et al. 2016, arXiv:1611.09940; Gemma 2) is applied in that dtype.
    """
    bias = None if bias is None else bias.to(hidden.dtype)
    logits = F.linear(hidden, weight.to(hidden.dtype), bias)
    logits = logits.to(at_least_fp32(hidden.dtype))
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunk_tokens: int | None = None,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    rule: Rule | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum of the cross entropy of `head_logits` and the number of targets that count.

    Args:
        hidden: (N, D) in the compute dtype.
        weight: (V, D), the head's matrix.
        targets: (N,) int64; -100 does not count.
        chunk_tokens: tokens whose logits stand at a time; None: chosen by V and device; 0: all at
            once, through torch's own loss.
        bias, softcap: as in `head_logits`.
        rule: the loss of a chunk; default `cross_entropy_rule`. Another one where `weight` is only
            a part of the head's rows; then not with ``chunk_tokens=0``.

    Returns:
        (loss_sum, count): fp32 and int64 scalars. Divide to get nats per token.
    """
    count = (targets != IGNORE).sum()
    if chunk_tokens == 0:
        logits = head_logits(hidden, weight, bias, softcap)  # (N, V)
        return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum"), count
    chunk = chunk_tokens or default_chunk(weight.shape[0], hidden.device.type)
    rule = rule or cross_entropy_rule
    return _LinearCrossEntropy.apply(hidden, weight, bias, targets, chunk, softcap, rule), count


def default_chunk(vocab_size: int, device: str) -> int:
    """Tokens per chunk: on CPU logits that fit in the cache, on a GPU enough to fill it."""
    elements = 1 << 27 if device == "cuda" else 1 << 21
    return max(256, elements // vocab_size)


def cross_entropy_rule(
    logits: Tensor, targets: Tensor, with_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The `Rule` of a whole vocabulary: -log softmax(z)[target]; gradient softmax - one_hot."""
    logs = logits.log_softmax(dim=-1)  # (n, V)
    counted = (targets != IGNORE)[:, None]  # (n, 1)
    index = targets[:, None].clamp(min=0)  # (n, 1), 0 where it does not count
    loss = -(logs.gather(1, index) * counted).sum()
    if not with_grad:
        return loss, None
    grad = logs.exp_()
    grad.scatter_add_(1, index, -torch.ones_like(index, dtype=grad.dtype))
    return loss, grad.mul_(counted)


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and gradients in the forward pass, chunk by chunk.

    The gradient of the summed loss by the logits is known as soon as the logits are; so each
    chunk's share of the gradients of `hidden` and `weight` is made at once and the logits are
    dropped. The backward pass only multiplies by the incoming gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        chunk: int,
        softcap: float | None,
        rule: Rule,
    ) -> Tensor:
        by_hidden, by_weight, by_bias = ctx.needs_input_grad[:3]
        matrix = weight.to(hidden.dtype)  # (V, D)
        statistics = at_least_fp32(hidden.dtype)
        total = hidden.new_zeros((), dtype=statistics)
        grad_hidden = torch.empty_like(hidden) if by_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=statistics) if by_weight else None
        grad_bias = hidden.new_zeros(weight.shape[0], dtype=statistics) if by_bias else None
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            inputs = hidden[part]  # (n, D)
            logits = head_logits(inputs, matrix, bias, softcap)  # (n, V)
            # d (c tanh(z/c)) / dz = 1 - tanh(z/c)^2
            slope = None if softcap is None else 1 - (logits / softcap).square_()
            loss, grad = rule(logits, targets[part], by_hidden or by_weight or by_bias)
            total += loss
            if grad is None:
                continue
            if slope is not None:
                grad.mul_(slope)
            if grad_bias is not None:
                grad_bias += grad.sum(dim=0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, matrix, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight += grad.T @ inputs
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        scale, (weight_dtype, bias_dtype) = grads[0], ctx.dtypes
        if grad_hidden is not None:
            grad_hidden = grad_hidden * scale.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * scale).to(weight_dtype)
        if grad_bias is not None:
            grad_bias = (grad_bias * scale).to(bias_dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None
