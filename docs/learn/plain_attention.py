"""Attention without weights: each token becomes a mean of all, those like it counting more.

Scores are dot products of the tokens' vectors. They become weights that sum to 1, and the output
is the weighted sum of the vectors: a "context vector". Nothing is trained yet. Six words with
three numbers each are enough to see all of it.

    python docs/learn/plain_attention.py         # next: trained_attention.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import FOUR, Figure, close, same, show
from torch import Tensor

from langwright.model import attend, attention_reference

# "Your journey starts with one step": the toy inputs of all attention scripts, (T, D) = (6, 3).
INPUTS = torch.tensor(
    [
        [0.43, 0.15, 0.89],
        [0.55, 0.87, 0.66],
        [0.57, 0.85, 0.64],
        [0.22, 0.58, 0.33],
        [0.77, 0.25, 0.10],
        [0.05, 0.80, 0.55],
    ]
)

CONTEXTS = [
    [0.4421, 0.5931, 0.5790],
    [0.4419, 0.6515, 0.5683],
    [0.4431, 0.6496, 0.5671],
    [0.4304, 0.6298, 0.5510],
    [0.4671, 0.5910, 0.5266],
    [0.4177, 0.6503, 0.5645],
]


def by_sum(scores: Tensor) -> Tensor:
    """Divide by the sum: weights that sum to 1, but only sensible for positive scores."""
    return scores / scores.sum()


def naive_softmax(scores: Tensor) -> Tensor:
    """exp(x) / sum exp(x): positive for all scores, but exp overflows from about 88 in fp32."""
    return scores.exp() / scores.exp().sum()


def stable_softmax(scores: Tensor) -> Tensor:
    """The same with the largest score taken off first, over the last axis."""
    powers = (scores - scores.max(dim=-1, keepdim=True).values).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def scores_by_loops(x: Tensor) -> Tensor:
    """(T, D) -> (T, T), one dot product after another."""
    scores = torch.empty(len(x), len(x))
    for i, query in enumerate(x):
        for j, key in enumerate(x):
            scores[i, j] = sum(a * b for a, b in zip(query, key))
    return scores


def plain_attention(x: Tensor) -> Tensor:
    """All context vectors at once: (T, D) -> (T, D)."""
    return stable_softmax(x @ x.T) @ x


def figures() -> Iterator[Figure]:
    """Scores, three ways to weights, contexts, loops beside matrices, and Langwright's form."""
    scores = INPUTS @ INPUTS[1]  # (6,): token 2 is the query
    printed = [0.9544, 1.4950, 1.4754, 0.8434, 0.7070, 1.0865]
    yield close("scores of token 2", scores, printed, FOUR)
    printed = [0.1455, 0.2278, 0.2249, 0.1285, 0.1077, 0.1656]
    yield close("weights by the sum", by_sum(scores), printed, FOUR)
    softmax = [0.1385, 0.2379, 0.2333, 0.1240, 0.1082, 0.1581]
    yield close("weights by naive softmax", naive_softmax(scores), softmax, FOUR)
    yield close("weights by torch's softmax", scores.softmax(dim=-1), softmax, FOUR)
    yield same("the stable softmax", stable_softmax(scores), scores.softmax(dim=-1))
    large = torch.tensor([0.0, 1000.0])
    yield Figure(
        "naive softmax of 1000 is no number", naive_softmax(large).isnan().tolist(), [False, True]
    )
    yield same("stable softmax of 1000", stable_softmax(large), torch.tensor([0.0, 1.0]))
    context = (scores.softmax(dim=-1)[:, None] * INPUTS).sum(dim=0)
    yield close("context vector of token 2", context, CONTEXTS[1], FOUR)

    all_scores = INPUTS @ INPUTS.T  # (6, 6)
    yield same("all scores, loops beside one product", scores_by_loops(INPUTS), all_scores)
    printed = [0.9995, 1.4950, 1.4570, 0.4937, 0.6654, 0.9450]
    yield close("their diagonal", all_scores.diagonal(), printed, FOUR)
    yield same("they are symmetric", all_scores, all_scores.T)
    yield same(
        "each row of weights sums to 1", stable_softmax(all_scores).sum(dim=1), torch.ones(6)
    )
    contexts = plain_attention(INPUTS)
    yield close("all context vectors", contexts, CONTEXTS, FOUR)

    # In Langwright: q = k = v = x for one head, every token visible. The library divides scores by
    # sqrt(D), which this first form does not: the queries are multiplied by it beforehand.
    x = INPUTS[None, None]  # (B, H, T, D) = (1, 1, 6, 3)
    everyone = torch.ones(1, 1, 6, 6, dtype=torch.bool)
    for function in (attention_reference, attend):
        found = function(x * 3**0.5, x, x, everyone)[0, 0]
        yield same(f"langwright.model.{function.__name__}", found, contexts)


if __name__ == "__main__":
    sys.exit(show(figures()))
