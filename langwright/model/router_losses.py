"""Losses that keep a mixture's router useful: experts used alike, logits small.

Left alone, a router comes to love a few experts, which then learn faster and are loved more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def balance_loss(scores: Tensor, counts: Tensor) -> Tensor:
    """E sum_e f_e P_e (Fedus et al. 2021, arXiv:2101.03961, eq. 4): k where experts are used alike,
    up to E where the same few take everything.

    f_e is the share of tokens sent to expert e (with k choices the shares sum to k, as in
    Transformers), P_e its mean score; scores of one token are made to sum to 1 (DeepSeek-V3,
    arXiv:2412.19437, eq. 18). The gradient goes through P.

    scores: (N, E); counts: (E,), how many of the tokens each got -> scalar.
    """
    share = counts.to(scores.dtype) / scores.shape[0]  # (E,)
    mean = (scores / scores.sum(dim=-1, keepdim=True)).mean(dim=0)  # (E,)
    return counts.shape[0] * (share * mean).sum()


def z_loss(logits: Tensor) -> Tensor:
    """Mean of logsumexp(logits)^2 (Zoph et al. 2022, arXiv:2202.08906, eq. 5): (N, E) -> scalar."""
    return logits.logsumexp(dim=-1).square().mean()


def router_losses(model: nn.Module) -> Tensor | None:
    """The weighted router losses of the last forward pass in training, as a mean over the layers
    with experts: to be added to a mean loss per token. None where there are none.

    They are taken: a second call gives None. (A loss left behind would keep its graph alive.)
    """
    losses = []
    for module in model.modules():
        loss = getattr(module, "router_loss", None)
        if isinstance(loss, Tensor):
            losses.append(loss)
            module.router_loss = None  # type: ignore[assignment]
    return torch.stack(losses).mean() if losses else None
