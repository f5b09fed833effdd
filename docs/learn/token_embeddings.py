"""Ids become vectors: a table with one row for each token.

The table starts random and is trained like any other weight. Picking row i is the same as
multiplying the one-hot vector of i by the table, only cheaper: so an embedding is a linear layer
without bias, and gradients reach it in the same way.

    python docs/learn/token_embeddings.py        # next: added_positions.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import FOUR, Figure, close, same, show
from torch import nn
from torch.nn import functional as F

from langwright.model import ModelConfig, build_model

IDS = torch.tensor([2, 3, 5, 1])
VOCABULARY, WIDTH = 6, 3

TABLE = [
    [0.3374, -0.1778, -0.1690],
    [0.9178, 1.5810, 1.3010],
    [1.2753, -0.2010, -0.1606],
    [-0.4015, 0.9666, -1.1481],
    [-1.1589, 0.3255, -0.6315],
    [-2.8400, -0.7849, -1.4096],
]


def book_table() -> nn.Embedding:
    """Six tokens, three numbers each, from seed 123."""
    torch.manual_seed(123)
    return nn.Embedding(VOCABULARY, WIDTH)


def figures() -> Iterator[Figure]:
    """The table, the rows picked, and the two other ways to pick them."""
    table = book_table()
    picked = table(IDS)  # (4, 3)
    yield close("the table, row by row", table.weight, TABLE, FOUR)
    yield close("rows 2, 3, 5, 1", picked, [TABLE[i] for i in IDS], FOUR)

    one_hot = F.one_hot(IDS, VOCABULARY).float()  # (4, 6)
    yield same("one-hot times the table", one_hot @ table.weight, picked)
    linear = nn.Linear(VOCABULARY, WIDTH, bias=False)
    linear.weight.data = table.weight.data.T.clone()  # a linear layer stores (out, in)
    yield same("a linear layer of the one-hot vectors", linear(one_hot), picked)

    # Only the rows that were picked get a gradient, by either way the same.
    by_row = torch.autograd.grad(table(IDS).square().sum(), table.weight)[0]
    by_matrix = torch.autograd.grad(linear(one_hot).square().sum(), linear.weight)[0]
    yield same("their gradients", by_matrix.T, by_row)
    yield Figure(
        "rows without gradient", (by_row == 0).all(dim=1).nonzero().flatten().tolist(), [0, 4]
    )

    # In Langwright: `Transformer.tokens`. Its gradient is tested too: a tied head adds to it.
    model = build_model(
        ModelConfig(vocab_size=VOCABULARY, width=WIDTH, heads=1, head_width=2, layers=1)
    )
    model.tokens.load_state_dict(table.state_dict())
    yield same("langwright.model.Transformer.tokens", model.tokens(IDS), picked, 0.0)


if __name__ == "__main__":
    sys.exit(show(figures()))
