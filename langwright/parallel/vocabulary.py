"""Embedding, head and loss shared out over the vocabulary: each process has some of the rows.

The cross entropy needs of the other processes only three numbers per token: the largest logit, the
sum of exponentials and the logit of the target (Shoeybi et al. 2019, arXiv:1909.08053, section 3).
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.base import UserError
from langwright.model import Transformer, head_logits, linear_cross_entropy, router_losses
from langwright.parallel.collectives import sum_forward
from langwright.parallel.cuts import Part
from langwright.parallel.layout import Layout

IGNORE = -100


def share_vocabulary(model: Transformer, layout: Layout, parts: dict[str, Part]) -> None:
    """Cut token embedding and head by rows over the span "tp"; `loss` and `logits` follow."""
    names = ["tokens.weight"] if model.head is None else ["tokens.weight", "head.weight"]
    if model.head_bias is not None:
        names.append("head_bias")
    for name in names:
        path, _, leaf = name.rpartition(".")
        owner = model.get_submodule(path)
        part = parts[name] = parts[name].cut("tp", 0)
        bounds = part.bounds(layout)
        if bounds[0].start == bounds[0].stop:
            raise UserError(
                "the vocabulary is too small to be shared out",
                where="parallel.tp",
                found=f"{model.config.vocab_size} tokens over {layout.tp} processes",
                fix="loss_parallel = false",
            )
        shape = [bound.stop - bound.start for bound in bounds]
        setattr(owner, leaf, nn.Parameter(torch.empty(shape, device=getattr(owner, leaf).device)))
    group, start = layout.group("tp"), parts["tokens.weight"].bounds(layout)[0].start
    model.tokens.forward = types.MethodType(_embedding(start, group), model.tokens)  # type: ignore[method-assign]
    model.logits = types.MethodType(_logits(layout), model)  # type: ignore[method-assign]
    model.loss = types.MethodType(_loss(start, group), model)  # type: ignore[method-assign]


def _embedding(start: int, group: Any) -> Any:
    def forward(table: nn.Module, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, D): each process looks up its own ids, and they are added up."""
        weight = table.weight
        assert isinstance(weight, Tensor)
        local = ids - start
        foreign = (local < 0) | (local >= weight.shape[0])
        vectors = F.embedding(local.masked_fill(foreign, 0), weight)
        return sum_forward(vectors.masked_fill(foreign[..., None], 0.0), group)

    return forward


def _logits(layout: Layout) -> Any:
    def logits(model: Transformer, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V) fp32, whole on every process; without gradients."""
        own = head_logits(hidden, model.head_weight, model.head_bias, model.config.logit_softcap)
        most = -(-model.config.vocab_size // layout.tp)  # the pieces may differ by a few rows
        padded = F.pad(own.detach(), (0, most - own.shape[-1])).contiguous()
        every = [torch.empty_like(padded) for _ in range(layout.tp)]
        dist.all_gather(every, padded, group=layout.group("tp"))
        return torch.cat(every, dim=-1)[..., : model.config.vocab_size]

    return logits


def _loss(start: int, group: Any) -> Any:
    def loss(
        model: Transformer,
        ids: Tensor,
        targets: Tensor,
        *,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        chunk_tokens: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `Transformer.loss`."""
        hidden = model.hidden(ids, segments=segments, positions=positions)
        total, count = parallel_cross_entropy(
            hidden.flatten(0, 1),
            model.head_weight,
            targets.flatten(),
            chunk_tokens,
            bias=model.head_bias,
            softcap=model.config.logit_softcap,
            start=start,
            group=group,
        )
        if model.training and model.config.experts is not None:
            routers = router_losses(model)
            total = total if routers is None else total + routers * count
        return total, count

    return loss


def parallel_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    chunk_tokens: int | None = None,
    *,
    bias: Tensor | None,
    softcap: float | None,
    start: int,
    group: Any,
) -> tuple[Tensor, Tensor]:
    """`linear_cross_entropy` with the head's rows `start` ... on this process.

    hidden (N, D) and targets (N,) are alike on all, weight (v, D) and bias (v,) the own rows. The
    gradient of `hidden` is partial: it must be added up over the group.

    Returns:
        (loss_sum, count), alike on all.
    """
    rule = functools.partial(_shared_rule, start=start, group=group)
    return linear_cross_entropy(
        hidden, weight, targets, chunk_tokens or None, bias=bias, softcap=softcap, rule=rule
    )


def _shared_rule(
    logits: Tensor, targets: Tensor, with_grad: bool, *, start: int, group: Any
) -> tuple[Tensor, Tensor]:
    """The rule of the own logits (n, v), columns `start` ... of all; see the top of this file."""
    top = logits.max(dim=-1).values  # (n,)
    dist.all_reduce(top, dist.ReduceOp.MAX, group=group)
    shifted = logits.sub_(top[:, None])
    index = targets - start
    counted = targets != IGNORE
    here = (index >= 0) & (index < logits.shape[1])  # never where ignored: that is negative
    index = torch.where(here, index, 0)[:, None]  # (n, 1)
    picked = shifted.gather(1, index)[:, 0] * here
    grad = shifted.exp_()
    sums = torch.stack((grad.sum(dim=-1), picked))  # (2, n)
    dist.all_reduce(sums, group=group)
    loss = ((sums[0].log() - sums[1]) * counted).sum()
    grad.div_(sums[0][:, None])
    grad.scatter_add_(1, index, -here[:, None].to(grad.dtype))
    return loss, grad.mul_(counted[:, None])
