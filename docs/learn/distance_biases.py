"""Positions as a bias on the scores: relative positions, ALiBi, and none at all.

Relative positions learn one number per head and distance, far distances sharing a bucket (Raffel et
al. 2020, T5). ALiBi learns nothing: a head with slope m subtracts m for each token of distance, so
some heads look near and others far, and a text longer than those of training is nothing new (Press
et al. 2022). Without any position a causal model still knows how many tokens it sees (NoPE).

    python docs/learn/distance_biases.py         # next: tensors.py
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, same, show
from several_heads import attention_output
from torch import Tensor, nn

from langwright.model import ModelConfig, Transformer, build_model

HEADS, LENGTH = 8, 40
IDS = torch.arange(2 * LENGTH).view(2, LENGTH)
BUCKETS, FARTHEST = 8, 32


def slopes(heads: int) -> list[float]:
    """ALiBi's m of each head, heads being a power of two: 2^(-8h/H) for h = 1 ... H."""
    return [2 ** (-8 * h / heads) for h in range(1, heads + 1)]


def alibi_bias(heads: int, length: int) -> Tensor:
    """(H, T, T): -m (i - j) for query i and key j."""
    places = torch.arange(length)
    distance = places[:, None] - places[None, :]
    return -torch.tensor(slopes(heads))[:, None, None] * distance


def bucket(distance: int) -> int:
    """T5's bucket of a distance backwards: the first half count one by one, the others grow with
    the logarithm, and all distances from FARTHEST on share the last."""
    exact = BUCKETS // 2
    if distance < exact:
        return max(distance, 0)
    steps = math.log(distance / exact) / math.log(FARTHEST / exact) * (BUCKETS - exact)
    return min(exact + int(steps), BUCKETS - 1)


def relative_bias(table: Tensor, length: int) -> Tensor:
    """table (buckets, H) -> (H, T, T): a learned number for each distance."""
    rows = [[table[bucket(i - j)] for j in range(length)] for i in range(length)]
    return torch.stack([torch.stack(row) for row in rows]).permute(2, 0, 1)


def biased_attention(x: Tensor, layers: nn.Module, bias: Tensor) -> Tensor:
    """Causal attention with `bias` (H, T, T) on the scores, written out: (B, T, D) -> (B, T, D)."""
    B, T, _ = x.shape
    q, k, v = (
        layer(x).view(B, T, len(bias), -1).transpose(1, 2)
        for layer in (layers.q, layers.k, layers.v)
    )  # (B, H, T, h)
    scores = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + bias
    future = torch.ones(T, T, dtype=torch.bool).triu(diagonal=1)
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    return layers.out((weights @ v).transpose(1, 2).reshape(B, T, -1))


def small_model(position: str) -> Transformer:
    """One block of Langwright's transformer; `position` says how places enter."""
    sizes = {"vocab_size": 100, "width": 32, "layers": 1, "heads": HEADS, "context_length": 16}
    distances = {"relative_buckets": BUCKETS, "relative_distance": FARTHEST}
    model = build_model(ModelConfig.parse({**sizes, **distances, "position": position})).eval()
    for layer in ("q", "k", "v"):  # as large as after training, so that scores matter
        getattr(model.blocks[0].attention, layer).weight.data.mul_(20)
    return model


def figures() -> Iterator[Figure]:
    """Slopes and buckets, each form beside Langwright's, and what a model without places sees."""
    yield close("ALiBi's slopes, 8 heads", slopes(8), [2.0**-h for h in range(1, 9)])
    first = alibi_bias(HEADS, 4)[0]
    yield close("head 1's bias of token 4", first[3], [-1.5, -1.0, -0.5, 0.0])
    found = [bucket(distance) for distance in (0, 1, 3, 4, 8, 31, 32, 1000)]
    yield close("buckets of 0, 1, 3, 4, 8, 31, 32, 1000", found, [0, 1, 3, 4, 5, 7, 7, 7])

    # In Langwright: `position="alibi"`, `"relative"`, `"none"`. LENGTH is over context_length:
    # neither has a last place.
    model = small_model("alibi")
    x, y = attention_output(model, IDS)
    written_out = biased_attention(x, model.blocks[0].attention, alibi_bias(HEADS, LENGTH))
    yield same("langwright.model.Attention, ALiBi", y, written_out)

    model = small_model("relative")
    table = model.blocks[0].attention.bias  # (buckets, H)
    table.data.normal_()
    x, y = attention_output(model, IDS)
    written_out = biased_attention(x, model.blocks[0].attention, relative_bias(table, LENGTH))
    yield same("langwright.model.Attention, relative", y, written_out)

    model = small_model("none")
    x, y = attention_output(model, IDS)
    written_out = biased_attention(x, model.blocks[0].attention, torch.zeros(HEADS, LENGTH, LENGTH))
    yield same("langwright.model.Attention, no position", y, written_out)
    order = torch.cat((torch.randperm(LENGTH - 1), torch.tensor([LENGTH - 1])))
    yield same(
        "the last token sees a set, not a row", model(IDS[:, order])[:, -1], model(IDS)[:, -1], 1e-5
    )


if __name__ == "__main__":
    sys.exit(show(figures()))
