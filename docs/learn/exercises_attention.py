"""Exercises of chapter 3: equal forms (3.1), narrow heads (3.2), attention of GPT-2's size (3.3).

A linear layer stores its matrix transposed, so weights move between the two forms of attention by
a transpose. Heads of width 1 put two numbers beside one another. And the sizes of GPT-2 are three
numbers: width 768, 12 heads, 1024 places.

    python docs/learn/exercises_attention.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, same, show
from plain_attention import INPUTS
from several_heads import HeadList, joined
from story_fixture import CHAPTER_4, MultiHeadAttention
from torch import Tensor, nn
from trained_attention import SelfAttentionV1, SelfAttentionV2

from langwright.model import attend

NAMES = ("query", "key", "value")


def r3_copied_weights() -> Iterator[Figure]:
    """Exercise 3.1: with the weights of the linear layers, transposed, both forms are equal."""
    torch.manual_seed(123)
    first, second = SelfAttentionV1(3, 2), SelfAttentionV2(3, 2)
    yield close("R3 equal before", torch.allclose(first(INPUTS), second(INPUTS)), False)
    with torch.no_grad():
        for name in NAMES:
            getattr(first, name).copy_(getattr(second, name).weight.T)  # (2, 3) -> (3, 2)
    yield same("R3 after copying", first(INPUTS), second(INPUTS))
    q, k, v = (getattr(second, name)(INPUTS)[None, None] for name in NAMES)  # (1, 1, 6, 2)
    everyone = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    yield same("R3 langwright.model.attend", attend(q, k, v, everyone)[0, 0], first(INPUTS))


def r4_two_numbers() -> Iterator[Figure]:
    """Exercise 3.2: for vectors of width 2 from two heads, each head must have width 1."""
    torch.manual_seed(123)
    batch = torch.stack((INPUTS, INPUTS))  # (2, 6, 3)
    narrow, wide = HeadList(3, 1, 6, heads=2), HeadList(3, 2, 6, heads=2)
    yield close("R4 with d_out 2", wide(batch).shape, [2, 6, 4])
    yield close("R4 with d_out 1", narrow(batch).shape, [2, 6, 2])

    stacked = joined(narrow)  # both heads' projections as one: (2, 3) each

    def split(layer: nn.Module) -> Tensor:
        """(B, T, 2) -> (B, H, T, 1)"""
        return layer(batch).unflatten(-1, (2, 1)).transpose(1, 2)

    mixed = attend(split(stacked.q), split(stacked.k), split(stacked.v), None)  # (B, H, T, 1)
    yield same("R4 langwright.model.attend", mixed.transpose(1, 2).flatten(2), narrow(batch))


def r5_size_of_gpt2() -> Iterator[Figure]:
    """Exercise 3.3: 768 wide, 12 heads of 64, 1024 places; about 2.4 million parameters."""
    torch.manual_seed(123)
    attention = MultiHeadAttention(CHAPTER_4).eval()
    width, heads, length = CHAPTER_4.width, CHAPTER_4.heads, CHAPTER_4.context_length
    yield close("R5 width, heads, places", [width, heads, length], [768, 12, 1024])
    count = sum(parameter.numel() for parameter in attention.parameters())
    yield close("R5 parameters: 4 d d + d", count, 4 * 768 * 768 + 768)
    x = torch.randn(1, length, width)
    with torch.no_grad():
        out = attention(x)
        yield close("R5 a full context", out.shape, [1, 1024, 768])

        def split(layer: nn.Module) -> Tensor:
            """(B, T, D) -> (B, H, T, h)"""
            return layer(x).unflatten(-1, (heads, -1)).transpose(1, 2)

        q, k, v = (split(getattr(attention, name)) for name in NAMES)
        yield close("R5 per head", q.shape, [1, 12, 1024, 64])
        mixed = attend(q, k, v, None).transpose(1, 2).flatten(2)
        yield same("R5 langwright.model.attend", attention.out(mixed), out)


if __name__ == "__main__":
    sys.exit(show(r3_copied_weights(), r4_two_numbers(), r5_size_of_gpt2()))
