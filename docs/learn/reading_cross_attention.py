"""Reading: attention before self-attention, and how a translator looks at its source.

The first neural translators read the whole source sentence into one vector and wrote the
translation from it; long sentences did not fit. Bahdanau et al. (2014, arXiv:1409.0473) let the
writer look back at every source word at each step: a small network scores each source state
against the writer's, softmax makes weights of the scores, and the weighted sum is what was read.

The transformer (Vaswani et al. 2017) kept the idea and dropped the recurrence: scores are dot
products, all steps at once. In its encoder-decoder form queries come from the text being written
and keys and values from the source: cross-attention. A decoder-only model needs none of it: the
source stands in front of the answer in the same row, and the causal mask lets the answer see it.

    python docs/learn/reading_cross_attention.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, same, show
from torch import Tensor, nn

from langwright.model import attend, attention_reference, causal_mask

SOURCE = ["je", "ne", "suis", "pas", "grand"]


class AdditiveAttention(nn.Module):
    """Bahdanau's: score(s, h) = v . tanh(W s + U h), softmax over the source, weighted sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.state = nn.Linear(width, width, bias=False)  # W
        self.source = nn.Linear(width, width, bias=False)  # U
        self.score = nn.Linear(width, 1, bias=False)  # v

    def forward(self, states: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """states (T, D), source (S, D) -> what was read (T, D), weights (T, S)."""
        both = torch.tanh(self.state(states)[:, None] + self.source(source)[None])  # (T, S, D)
        weights = self.score(both)[..., 0].softmax(dim=-1)
        return weights @ source, weights


def cross_attention(states: Tensor, source: Tensor) -> Tensor:
    """states (T, D), source (S, D) -> (T, D): softmax(Q K^T / sqrt(D)) V, nothing hidden."""
    return (states @ source.T / source.shape[-1] ** 0.5).softmax(dim=-1) @ source


def one_head(x: Tensor) -> Tensor:
    """(T, D) -> (1, 1, T, D): a batch of one with one head."""
    return x[None, None]


def figures() -> Iterator[Figure]:
    """Additive attention, cross-attention by hand and by Langwright, and one row for both texts."""
    torch.manual_seed(123)
    source, states = torch.randn(5, 8), torch.randn(3, 8)  # S = 5 words read, T = 3 being written
    additive = AdditiveAttention(8)
    with torch.no_grad():
        read, weights = additive(states, source)
        one = torch.stack(
            [  # the second state alone, one source word after another
                additive.score(torch.tanh(additive.state(states[1]) + additive.source(word)))[0]
                for word in source
            ]
        ).softmax(dim=0)
    yield close("additive: every row of weights sums to 1", weights.sum(dim=-1), [1.0] * 3, 1e-6)
    yield same("additive: as a loop over the source", weights[1], one)
    yield close("what was read", read.shape, [3, 8])

    everything = torch.ones(1, 1, 3, 5, dtype=torch.bool)  # the source is complete: no mask
    q, k = one_head(states), one_head(source)
    for function in (attention_reference, attend):
        found = function(q, k, k, everything)[0, 0]
        yield same(
            f"cross: langwright.model.{function.__name__}", found, cross_attention(states, source)
        )

    # A writer that asks for the source backwards: sharp queries pick one word each.
    places = 30 * torch.eye(len(SOURCE))
    picked = (places.flip(0) @ torch.eye(len(SOURCE))).softmax(dim=-1).argmax(dim=-1)
    backwards = [SOURCE[i] for i in picked.tolist()]
    yield close("asking backwards", backwards, ["grand", "pas", "suis", "ne", "je"])

    # One row holds both: source first. The written part sees all of the source and its own past.
    mask = causal_mask(5 + 3, 5 + 3)
    yield close("decoder-only: the answer sees the whole source", mask[5:, :5].all(), True)
    yield close("decoder-only: and itself up to now", mask[5:, 5:], causal_mask(3, 3))


if __name__ == "__main__":
    sys.exit(show(figures()))
