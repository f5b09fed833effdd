"""Cross entropy: how surprised the model was, in nats.

The loss of a language model is the mean of -log p(next token). `cross_entropy_reference` writes it
out; `linear_cross_entropy` computes head and loss together, a few tokens at a time, so that the
logits (B T, V), the largest tensor of a training step, never stand whole.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

IGNORE = -100  # a target that does not count


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


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, chunk_tokens: int | None = None
) -> tuple[Tensor, Tensor]:
    """Sum of the cross entropy of ``hidden @ weight.T`` and the number of targets that count.

    Args:
        hidden: (N, D) in the compute dtype.
        weight: (V, D), the head's matrix.
        targets: (N,) int64; -100 does not count.
        chunk_tokens: tokens whose logits stand at a time; None: chosen by V and device; 0: all at
            once, through torch's own loss.

    Returns:
        (loss_sum, count): fp32 and int64 scalars. Divide to get nats per token.
    """
    count = (targets != IGNORE).sum()
    if chunk_tokens == 0:
        logits = F.linear(hidden, weight.to(hidden.dtype))  # (N, V)
        logits = logits.to(at_least_fp32(hidden.dtype))
        return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum"), count
    chunk = chunk_tokens or default_chunk(weight.shape[0], hidden.device.type)
    return _LinearCrossEntropy.apply(hidden, weight, targets, chunk), count


def default_chunk(vocab_size: int, device: str) -> int:
    """Tokens per chunk: on CPU logits that fit in the cache, on a GPU enough to fill it."""
    elements = 1 << 27 if device == "cuda" else 1 << 21
    return max(256, elements // vocab_size)


class _LinearCrossEntropy(torch.autograd.Function):
    """Loss and gradients in the forward pass, chunk by chunk.

    The gradient of the summed loss by the logits is softmax - one_hot, known as soon as the logits
    are; so each chunk's share of the gradients of `hidden` and `weight` is made at once and the
    logits are dropped. The backward pass only multiplies by the incoming gradient.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, chunk: int) -> Tensor:
        by_hidden, by_weight = ctx.needs_input_grad[:2]
        matrix = weight.to(hidden.dtype)  # (V, D)
        statistics = at_least_fp32(hidden.dtype)
        total = hidden.new_zeros((), dtype=statistics)
        grad_hidden = torch.empty_like(hidden) if by_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=statistics) if by_weight else None
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            inputs = hidden[part]  # (n, D)
            counted = (targets[part] != IGNORE)[:, None]  # (n, 1)
            index = targets[part, None].clamp(min=0)  # (n, 1), 0 where it does not count
            logs = F.linear(inputs, matrix).to(statistics).log_softmax(dim=-1)  # (n, V)
            total -= (logs.gather(1, index) * counted).sum()
            if not (by_hidden or by_weight):
                continue
            grad = logs.exp_()  # softmax - one_hot, in place
            grad.scatter_add_(1, index, -torch.ones_like(index, dtype=statistics))
            grad = (grad.mul_(counted)).to(hidden.dtype)  # (n, V)
            if grad_hidden is not None:
                torch.mm(grad, matrix, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight += grad.T @ inputs
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        if grad_hidden is not None:
            grad_hidden = grad_hidden * scale.to(grad_hidden.dtype)
        if grad_weight is not None:
            grad_weight = (grad_weight * scale).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None, None
