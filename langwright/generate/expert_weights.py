"""Quantised experts: each expert's matrices in the same packed forms as other matrices.

A token visits a few experts, so even a long prompt gives each of them few rows: there is no second
form for many rows, which would take four times the memory for all experts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from langwright.generate.kernels import Product, product
from langwright.generate.quantise import GROUP, Grouped, quantise
from langwright.model import ExpertFeedForward


class PackedExperts(nn.Module):
    """One matrix of each of E experts; computed in bf16, given back in the dtype of x.

    Args:
        weights: each expert's (N, K).
    """

    def __init__(self, weights: Sequence[Grouped]) -> None:
        super().__init__()
        self.out_features = len(weights[0].codes)
        self.of = nn.ModuleList(product(one) for one in weights)

    def forward(self, x: Tensor, counts: list[int]) -> Tensor:
        """x (M, K) sorted by expert, so many rows of each -> (M, N)."""
        y = torch.empty(len(x), self.out_features, dtype=x.dtype, device=x.device)
        start = 0
        for one, rows in zip(self.of, counts, strict=True):
            if rows:
                part = slice(start, start + rows)
                y[part] = one(x[part].to(torch.bfloat16).contiguous()).to(x.dtype)
                start += rows
        return y

    @property
    def nbytes(self) -> int:
        """Bytes of all experts' matrices."""
        return sum(one.nbytes for one in self.of if isinstance(one, Product))


class PackedExpertFeedForward(ExpertFeedForward):
    """A mixture of experts whose matrices are quantised; router and shared expert are `like`'s."""

    def __init__(self, like: ExpertFeedForward, matrices: Sequence[Sequence[Grouped]]) -> None:
        """matrices: gates, ups and downs of all experts."""
        nn.Module.__init__(self)
        self.experts, self.activation = like.experts, like.activation
        self.router, self.shared, self.shared_gate = like.router, like.shared, like.shared_gate
        self.router_loss = self.load = None
        self.packed_gate, self.packed_up, self.packed_down = map(PackedExperts, matrices)

    def each(self, x: Tensor, counts: Tensor) -> Tensor:
        """What every expert makes of its rows: x (M, D) sorted by expert, counts (E,) -> (M, D)."""
        rows = counts.tolist()
        inner = self.activation(self.packed_gate(x, rows)) * self.packed_up(x, rows)  # (M, F)
        y: Tensor = self.packed_down(inner, rows)
        return y

    def extra_repr(self) -> str:
        """How many, told where the module is printed."""
        return f"{self.experts.count} packed, {self.experts.chosen} chosen"


def pack_experts(
    like: ExpertFeedForward,
    weights: ExpertFeedForward,
    to: str,
    stored: Mapping[str, Sequence[Grouped]],
) -> PackedExpertFeedForward | None:
    """`like` with the matrices of `weights` quantised, or as they are in `stored` (each expert's
    "gate", "up", "down"). None where their columns do not divide into groups of 32, as "int4"
    needs them: they are kept as they are."""
    columns = (weights.gate.shape[-1], weights.down.shape[-1])
    if to == "int4" and any(count % GROUP for count in columns):
        return None
    matrices = [
        stored.get(name) or [quantise(one.detach(), to) for one in getattr(weights, name)]
        for name in ("gate", "up", "down")
    ]
    return PackedExpertFeedForward(like, matrices)
