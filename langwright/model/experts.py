"""A mixture of experts: each token goes through a few of many feed-forwards.

Shazeer et al. 2017 (arXiv:1701.06538): y = sum over the chosen experts e of w_e(x) f_e(x). The
parameters grow with the number of experts E, the work with the number chosen k.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from langwright.model.config import Experts, ModelConfig
from langwright.model.feedforward import ACTIVATIONS, GatedFeedForward
from langwright.model.grouped_linear import grouped_linear
from langwright.model.linear import Linear
from langwright.model.losses import at_least_fp32
from langwright.model.router_losses import balance_loss, z_loss


class Routing(NamedTuple):
    """Where each of N tokens goes."""

    chosen: Tensor  # (N, k) int64, experts
    weights: Tensor  # (N, k) fp32
    scores: Tensor  # (N, E) fp32, of every expert
    logits: Tensor  # (N, E) fp32


class Router(nn.Module):
    """Scores every expert for every token and chooses k. Works in fp32: a rounding error changes
    not a digit but the expert (Fedus et al. 2021, arXiv:2101.03961, section 2.4).

    Scores are the softmax of the logits or their sigmoid. With groups, a token first chooses
    groups: by their best expert (softmax; DeepSeek-V2, arXiv:2405.04434, section 2.2.2), or by the
    sum of their two best (sigmoid; DeepSeek-V3, arXiv:2412.19437, section 2.1.2). The selection
    bias (ibid.) counts in choosing and not in the weights; it takes no gradient.
    """

    def __init__(self, width: int, experts: Experts) -> None:
        super().__init__()
        self.experts = experts
        self.weight = nn.Parameter(torch.empty(experts.count, width))
        self.bias = (
            nn.Parameter(torch.zeros(experts.count), requires_grad=False)
            if experts.selection_bias
            else None
        )

    def forward(self, x: Tensor) -> Routing:
        """(N, D) -> the routing of N tokens."""
        e, dtype = self.experts, at_least_fp32(x.dtype)
        logits = x.to(dtype) @ self.weight.to(dtype).T  # (N, E)
        scores = logits.softmax(dim=-1) if e.scores == "softmax" else logits.sigmoid()
        choice = scores.detach() if self.bias is None else scores.detach() + self.bias
        if e.groups > 1:
            choice = self._within_groups(choice)
        chosen = choice.topk(e.chosen, dim=-1).indices  # (N, k)
        weights = scores.gather(1, chosen)
        if e.normalise:
            weights = weights / (weights.sum(dim=-1, keepdim=True) + 1e-20)
        return Routing(chosen, weights * e.weight_scale, scores, logits)

    def _within_groups(self, choice: Tensor) -> Tensor:
        """-infinity for experts of groups not chosen: (N, E) -> (N, E)."""
        grouped = choice.unflatten(-1, (self.experts.groups, -1))  # (N, groups, E / groups)
        best = 1 if self.experts.scores == "softmax" else min(2, grouped.shape[-1])
        by_group = grouped.topk(best, dim=-1).values.sum(dim=-1)  # (N, groups)
        groups = by_group.topk(self.experts.groups_chosen, dim=-1).indices
        open_ = torch.zeros_like(by_group, dtype=torch.bool).scatter(1, groups, True)
        return grouped.masked_fill(~open_[..., None], float("-inf")).flatten(1)


class ExpertFeedForward(nn.Module):
    """E gated feed-forwards, of which each token visits k, and one that all tokens visit.

    No token is dropped and no expert padded: tokens are sorted by expert, each expert works on its
    own rows, and the results go back to their tokens.

    In training with a router loss, `forward` leaves it in `router_loss`, from where
    `router_losses` takes it. With a selection bias it adds up in `load` how many tokens each expert
    got, until the trainer takes it to shift the bias.
    """

    def __init__(self, config: ModelConfig, experts: Experts) -> None:
        super().__init__()
        self.experts = experts
        count, width, hidden = experts.count, config.width, experts.hidden_width
        hidden = hidden or config.hidden_size
        self.router = Router(width, experts)
        self.gate = nn.Parameter(torch.empty(count, hidden, width))  # (E, F, D)
        self.up = nn.Parameter(torch.empty(count, hidden, width))  # (E, F, D)
        self.down = nn.Parameter(torch.empty(count, width, hidden))  # (E, D, F)
        self.shared = (
            GatedFeedForward(config, experts.shared_width) if experts.shared_width else None
        )
        self.shared_gate = Linear(width, 1, bias=False) if experts.shared_gate else None
        self.activation = ACTIVATIONS[config.feedforward]
        self.router_loss: Tensor | None = None
        self.load: Tensor | None = None  # (E,) int64

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        tokens = x.flatten(0, -2)  # (N, D)
        routing = self.router(tokens)
        if self.training and (self.experts.balance_loss or self.experts.router_z_loss):
            self.router_loss = self._loss(routing)
        if self.training and self.router.bias is not None:
            counts = _counts(routing.chosen.flatten(), self.experts.count)
            self.load = counts if self.load is None else self.load + counts
        y = self.mix(tokens, routing.chosen, routing.weights).view_as(x)
        if self.shared is None:
            return y
        shared = self.shared(x)
        return y + (shared if self.shared_gate is None else self.shared_gate(x).sigmoid() * shared)

    def mix(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """Weighted sum of the chosen experts: tokens (N, D), chosen, weights (N, k) -> (N, D)."""
        k = chosen.shape[1]
        flat = chosen.flatten()  # (N k)
        order = flat.argsort(stable=True)  # by expert, then by token
        counts = _counts(flat, self.experts.count)
        y = self.each(tokens.index_select(0, order // k), counts)  # (N k, D), sorted
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0], device=order.device)
        y = y.index_select(0, back).view(-1, k, y.shape[-1])  # (N, k, D), as chosen
        return torch.bmm(weights[:, None].to(y.dtype), y)[:, 0]

    def each(self, x: Tensor, counts: Tensor) -> Tensor:
        """What every expert makes of its rows: x (M, D) sorted by expert, counts (E,) -> (M, D)."""
        inner = self.activation(grouped_linear(x, self.gate, counts))  # (M, F)
        inner = inner * grouped_linear(x, self.up, counts)
        return grouped_linear(inner, self.down, counts)

    def _loss(self, routing: Routing) -> Tensor:
        """The two router losses, weighted: a scalar."""
        e = self.experts
        loss = routing.logits.new_zeros(())
        if e.balance_loss:
            counts = _counts(routing.chosen.flatten(), e.count)
            loss = loss + e.balance_loss * balance_loss(routing.scores, counts)
        if e.router_z_loss:
            loss = loss + e.router_z_loss * z_loss(routing.logits)
        return loss

    def extra_repr(self) -> str:
        """Shape, told where the module is printed."""
        count, hidden, width = self.gate.shape
        return f"{count} x {width} -> {hidden}, {self.experts.chosen} chosen"

    def __getstate__(self) -> dict[str, Any]:
        """Without the loss of the last forward pass: it belongs to a graph and cannot be copied."""
        return {**self.__dict__, "router_loss": None, "load": None}


def _counts(chosen: Tensor, experts: int) -> Tensor:
    """How often each expert was chosen: (M,) -> (E,) int64."""
    zeros = torch.zeros(experts, dtype=torch.int64, device=chosen.device)
    return zeros.scatter_add(0, chosen, torch.ones_like(chosen))
