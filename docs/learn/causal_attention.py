"""Nobody may look ahead: the causal mask, and dropout on the weights.

The model learns to name the next token, so token i may only see tokens 1 ... i. Two ways to the
same weights: softmax, then zeros above the diagonal, then rows made to sum to 1 again; or minus
infinity above the diagonal before softmax. Either way nothing of the future is left in the row.

    python docs/learn/causal_attention.py        # next: several_heads.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import FOUR, Figure, close, same, show
from plain_attention import INPUTS
from torch import Tensor, nn
from torch.nn import functional as F
from trained_attention import SelfAttentionV2, seeded_v2

from langwright.model import attend, attention_reference, causal_mask

CAUSAL_WEIGHTS = [
    [1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
    [0.5517, 0.4483, 0.0, 0.0, 0.0, 0.0],
    [0.3800, 0.3097, 0.3103, 0.0, 0.0, 0.0],
    [0.2758, 0.2460, 0.2462, 0.2319, 0.0, 0.0],
    [0.2175, 0.1983, 0.1984, 0.1888, 0.1971, 0.0],
    [0.1935, 0.1663, 0.1666, 0.1542, 0.1666, 0.1529],
]


def zero_and_renormalise(weights: Tensor) -> Tensor:
    """Method 1: (T, T) weights over all tokens -> weights over the visible ones."""
    visible = weights.tril()
    return visible / visible.sum(dim=-1, keepdim=True)


def mask_before_softmax(scores: Tensor) -> Tensor:
    """Method 2: (T, T) scaled scores -> weights; e^-infinity is 0."""
    future = torch.ones_like(scores, dtype=torch.bool).triu(diagonal=1)
    return scores.masked_fill(future, -torch.inf).softmax(dim=-1)


def inverted_dropout(weights: Tensor, share: float, kept: Tensor) -> Tensor:
    """What dropout does: those not `kept` become 0, the others grow by 1 / (1 - share), so that
    the expected value stays."""
    return weights * kept / (1 - share)


class CausalAttention(nn.Module):
    """(B, T, D) -> (B, T, D_out), one head. The mask is a buffer: it follows the module from
    device to device but is no weight, and is cropped to the length of the input."""

    future: Tensor

    def __init__(self, d_in: int, d_out: int, context_length: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.projections = SelfAttentionV2(d_in, d_out)
        self.dropout = nn.Dropout(dropout)
        future = torch.ones(context_length, context_length, dtype=torch.bool).triu(diagonal=1)
        self.register_buffer("future", future)

    def forward(self, x: Tensor) -> Tensor:
        length, layers = x.shape[1], self.projections
        q, k, v = layers.query(x), layers.key(x), layers.value(x)
        scores = q @ k.transpose(1, 2) / k.shape[-1] ** 0.5  # (B, T, T)
        weights = scores.masked_fill(self.future[:length, :length], -torch.inf).softmax(dim=-1)
        return self.dropout(weights) @ v


def mask_figures(layers: SelfAttentionV2) -> Iterator[Figure]:
    """Both methods, and that nothing leaks."""
    scores = layers.scores(INPUTS)
    yield close("score of token 1 with itself", scores[0, :1], [0.2899], FOUR)
    yield close("scores of token 2", scores[1, :2], [0.4656, 0.1723], FOUR)
    printed = [0.3408, 0.1270, 0.1290, 0.0198, 0.1290, 0.0078]
    yield close("scores of token 6", scores[5], printed, FOUR)
    weights = mask_before_softmax(scores / 2**0.5)
    yield close("causal weights", weights, CAUSAL_WEIGHTS, FOUR)
    yield same("zeroed and renormalised", zero_and_renormalise(layers.weights(INPUTS)), weights)
    # No leak: row 4 is a softmax over the first four scores, as if the others did not exist.
    alone = (scores[3, :4] / 2**0.5).softmax(dim=-1)
    yield same("row 4, as if nothing followed", weights[3, :4], alone)


def dropout_figures(layers: SelfAttentionV2) -> Iterator[Figure]:
    """Dropout of one half. Which entries fall is torch's draw from seed 123."""
    torch.manual_seed(123)
    ones = F.dropout(torch.ones(6, 6), 0.5)
    yield Figure("dropout on ones: the values left", ones.unique().tolist(), [0.0, 2.0])
    weights = mask_before_softmax(layers.scores(INPUTS) / 2**0.5)
    torch.manual_seed(123)
    dropped = F.dropout(weights, 0.5)
    yield close("dropout on the weights, row 1", dropped[0, :1], [2.0], FOUR)
    yield close("row 2", dropped[1], [0.0] * 6, FOUR)
    yield close("row 3", dropped[2, :3], [0.7599, 0.6194, 0.6206], FOUR)
    yield same("written out", inverted_dropout(weights, 0.5, ones > 0), dropped)


def figures() -> Iterator[Figure]:
    """The mask, dropout, a batch, and Langwright's form."""
    layers = seeded_v2()
    yield from mask_figures(layers)
    yield from dropout_figures(layers)
    torch.manual_seed(789)
    attention, batch = CausalAttention(3, 2, context_length=8), torch.stack((INPUTS, INPUTS))
    out = attention(batch)  # 6 of at most 8 tokens
    yield Figure("a batch of two: shape", list(out.shape), [2, 6, 2])
    expected = mask_before_softmax(layers.scores(INPUTS) / 2**0.5) @ layers.value(INPUTS)
    yield same("each row of the batch by itself", out, torch.stack((expected, expected)))
    trained = [name for name, _ in attention.named_parameters() if "future" in name]
    yield Figure(
        "the mask is a buffer, not a weight", ["future" in attention.state_dict(), *trained], [True]
    )

    # In Langwright: `causal_mask`, and `attend` without a mask is causal.
    yield Figure(
        "langwright.model.causal_mask",
        [bool(causal_mask(6, 6).equal(~attention.future[:6, :6]))],
        [True],
    )
    q, k, v = (layer(batch)[:, None] for layer in (layers.query, layers.key, layers.value))
    for function in (attention_reference, attend):
        yield same(f"langwright.model.{function.__name__}", function(q, k, v, None)[:, 0], out)


if __name__ == "__main__":
    sys.exit(show(figures()))
