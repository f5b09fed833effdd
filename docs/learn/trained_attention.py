"""Attention with weights: what a token asks, what it offers, what it says.

Three matrices turn each vector into a query, a key and a value. Scores are query times key,
divided by the square root of the key's width so that softmax does not saturate as heads grow
wider (Vaswani et al. 2017, section 3.2.1): softmax(Q K^T / sqrt(d)) V.

    python docs/learn/trained_attention.py       # next: causal_attention.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import FOUR, Figure, close, same, show
from plain_attention import INPUTS
from torch import Tensor, nn

from langwright.model import attend

V1_CONTEXTS = [
    [0.2996, 0.8053],
    [0.3061, 0.8210],
    [0.3058, 0.8203],
    [0.2948, 0.7939],
    [0.2927, 0.7891],
    [0.2990, 0.8040],
]
V2_CONTEXTS = [
    [-0.0739, 0.0713],
    [-0.0748, 0.0703],
    [-0.0749, 0.0702],
    [-0.0760, 0.0685],
    [-0.0763, 0.0679],
    [-0.0754, 0.0693],
]


class SelfAttentionV1(nn.Module):
    """(T, D) -> (T, D_out) with bare matrices, uniform in [0, 1): simple, but a poor start."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.rand(d_in, d_out))
        self.key = nn.Parameter(torch.rand(d_in, d_out))
        self.value = nn.Parameter(torch.rand(d_in, d_out))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x @ self.query, x @ self.key, x @ self.value
        return (q @ k.T / k.shape[-1] ** 0.5).softmax(dim=-1) @ v


class SelfAttentionV2(nn.Module):
    """The same with linear layers: values around 0, scaled by the layer's width; bias optional."""

    def __init__(self, d_in: int, d_out: int, qkv_bias: bool = False) -> None:
        super().__init__()
        self.query = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.key = nn.Linear(d_in, d_out, bias=qkv_bias)
        self.value = nn.Linear(d_in, d_out, bias=qkv_bias)

    def scores(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, T), not yet scaled."""
        return self.query(x) @ self.key(x).T

    def weights(self, x: Tensor) -> Tensor:
        """(T, D) -> (T, T), each row summing to 1."""
        return (self.scores(x) / self.key.out_features**0.5).softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.weights(x) @ self.value(x)


def seeded_v2() -> SelfAttentionV2:
    """The book's second form from seed 789, with 3 numbers in and 2 out."""
    torch.manual_seed(789)
    return SelfAttentionV2(3, 2)


def step_by_step() -> Iterator[Figure]:
    """One query by hand: token 2, with the matrices of seed 123."""
    torch.manual_seed(123)
    query, key, value = (torch.rand(3, 2) for _ in range(3))
    q2, keys, values = INPUTS[1] @ query, INPUTS @ key, INPUTS @ value
    yield close("query of token 2", q2, [0.4306, 1.4551], FOUR)
    yield close("its score with itself", (q2 @ keys[1])[None], [1.8524], FOUR)
    scores = keys @ q2  # (6,)
    printed = [1.2705, 1.8524, 1.8111, 1.0795, 0.5577, 1.5440]
    yield close("its scores with all", scores, printed, FOUR)
    weights = (scores / 2**0.5).softmax(dim=-1)
    printed = [0.1500, 0.2264, 0.2199, 0.1311, 0.0906, 0.1820]
    yield close("its weights", weights, printed, FOUR)
    yield close("its context vector", weights @ values, [0.3061, 0.8210], FOUR)


def figures() -> Iterator[Figure]:
    """By hand, as two classes, one from the other, and Langwright's form."""
    yield from step_by_step()
    torch.manual_seed(123)
    first = SelfAttentionV1(3, 2)
    yield close("with bare matrices", first(INPUTS), V1_CONTEXTS, FOUR)
    second = seeded_v2()
    yield close("with linear layers", second(INPUTS), V2_CONTEXTS, FOUR)
    printed = [0.1921, 0.1646, 0.1652, 0.1550, 0.1721, 0.1510]
    yield close("its weights, token 1", second.weights(INPUTS)[0], printed, FOUR)

    # In Langwright: `attend`, one head, every token visible.
    q, k, v = (layer(INPUTS)[None, None] for layer in (second.query, second.key, second.value))
    everyone = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    yield same("langwright.model.attend", attend(q, k, v, everyone)[0, 0], second(INPUTS))


if __name__ == "__main__":
    sys.exit(show(figures()))
