"""Reading: one forward pass trains every position.

Because nobody may look ahead, the output at position t is what the model would say after reading
only tokens 1 ... t. So one pass over a row of T tokens makes T predictions, each with its own
prefix, and the loss is their mean: as many lessons as tokens. Were attention open to both sides,
a row would have to be read again for each prefix: T (T + 1) / 2 tokens instead of T.

While writing it is the same fact that makes the cache of keys and values possible: what was
computed for earlier tokens does not change when one more comes.

    python docs/learn/reading_every_position.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, same, show
from torch import Tensor
from torch.nn import functional as F

from langwright.model import ModelConfig, Transformer, build_model

LENGTH = 12


def small_model() -> Transformer:
    """Two layers over 40 symbols, weights large enough that every position matters."""
    config = ModelConfig(
        vocab_size=40, context_length=LENGTH, width=32, layers=2, heads=4, init_std=0.2
    )
    return build_model(config, seed=2).eval()


def prefix_logits(model: Transformer, ids: Tensor) -> Tensor:
    """(1, T) -> (T, V): every prefix read by itself, its last logits kept."""
    return torch.cat([model(ids[:, :end])[:, -1] for end in range(1, ids.shape[1] + 1)])


def gradient(model: Transformer, loss: Tensor) -> Tensor:
    """All gradients of the loss in one vector."""
    parts = torch.autograd.grad(loss, list(model.parameters()))
    return torch.cat([part.flatten() for part in parts])


def figures() -> Iterator[Figure]:
    """Logits, loss and gradient: one pass beside T passes."""
    model = small_model()
    ids = torch.randint(40, (1, LENGTH + 1), generator=torch.manual_seed(4))
    inputs, targets = ids[:, :-1], ids[:, 1:]
    together, apart = model(inputs)[0], prefix_logits(model, inputs)  # (T, V) each
    yield same("logits of one pass and of T passes", together, apart, 1e-5)

    total, count = model.loss(inputs, targets)
    lessons = [F.cross_entropy(row, target) for row, target in zip(apart, targets[0])]
    yield close("lessons in one row", count, LENGTH)
    mean = torch.stack(lessons).mean()
    yield same("langwright.model.Transformer.loss", total / count, mean, 1e-5)
    apart_gradient = gradient(model, mean)
    yield same("and its gradient", gradient(model, total / count), apart_gradient, 1e-5)
    read = [LENGTH, sum(range(1, LENGTH + 1))]
    yield close("tokens read: one pass, T passes", read, [12, 78])

    changed = inputs.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 40
    moved = (model(changed)[0] - together).abs().amax(dim=-1)  # (T,)
    places = (moved > 1e-4).nonzero().flatten() + 1
    yield close("another token 8 changes the predictions of", places, [8, 9, 10, 11, 12])


if __name__ == "__main__":
    sys.exit(show(figures()))
