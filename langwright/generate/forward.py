"""One step's forward passes: which texts go through the model together.

Rows of a batch are padded to the longest, in new tokens and in keys. The more rows, the fewer
times the weights are read; the more alike they are, the less is padding. `groups` weighs the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langwright.generate.padding import padded_ids
from langwright.generate.paged_cache import PagedCache, PagedStore
from langwright.generate.scheduler import Work
from langwright.generate.weights import PackedTransformer
from langwright.model import Transformer

Hidden = Callable[[Tensor, PagedCache, Tensor], Tensor]
"""ids (B, T), the cache, counts (B,) -> vectors (B, T, D): `Transformer.hidden`, or a compiled
form of it."""


@dataclass(frozen=True)
class Costs:
    """What a forward pass costs, in bytes moved or their like in time."""

    weights: float  # read once
    token: float  # work for each token, padding included
    place: float  # each key and value read, padding included


def costs_of(model: Transformer, kept_bytes: float) -> Costs:
    """Estimated costs. kept_bytes: keys and values of one token in all layers.

    A token's matrix products take about as long as reading 1/16 of the weights, as measured on
    CPUs; gathering keys and values writes and reads them once more.
    """
    if isinstance(model, PackedTransformer):
        weights = float(model.read_bytes)
    else:
        weights = float(sum(x.nbytes for x in model.parameters()))
    return Costs(weights, weights / 16, 3 * kept_bytes)


def groups(works: Sequence[Work], costs: Costs) -> list[list[Work]]:
    """Texts that go through the model together, so that the sum of all costs is least.

    Single tokens and pieces of prompts stay apart. Within each, rows are sorted and cut into runs
    by dynamic programming; n rows take n^2 steps.
    """
    single = sorted((one for one in works if one.new == 1), key=_length)
    pieces = sorted((one for one in works if one.new > 1), key=lambda one: (one.new, _length(one)))
    return _cut(single, costs) + _cut(pieces, costs)


def _length(work: Work) -> int:
    return work.text.pages.length


def _cut(works: list[Work], costs: Costs) -> list[list[Work]]:
    best = [0.0]  # least cost of the first i rows
    begins: list[int] = []  # where the last group of the first i rows begins
    for end in range(1, len(works) + 1):
        new = held = 0
        options = []
        for start in range(end - 1, -1, -1):
            new, held = max(new, works[start].new), max(held, _length(works[start]))
            each = new * costs.token + (held + new) * costs.place
            options.append((best[start] + costs.weights + (end - start) * each, start))
        cost, start = min(options)
        best.append(cost)
        begins.append(start)
    found, end = [], len(works)
    while end:
        found.append(works[begins[end - 1] : end])
        end = begins[end - 1]
    return found[::-1]


def plain_hidden(model: Transformer) -> Hidden:
    """The model as it is."""

    def hidden(ids: Tensor, cache: PagedCache, counts: Tensor) -> Tensor:
        return model.hidden(ids, cache=cache, counts=counts)

    return hidden


def run_group(
    model: Transformer, hidden: Hidden, store: PagedStore, works: Sequence[Work]
) -> tuple[Tensor, Tensor]:
    """One forward pass. The texts then hold their new tokens.

    Returns:
        Logits (B, V) behind each text's last token, and the vectors (B, T, D) that they come from,
        of which the first `new` of each row are real.
    """
    new = max(work.new for work in works)
    texts = [(work.text.ids, work.text.pages.length, work.new) for work in works]
    ids = padded_ids([text[start : start + count] for text, start, count in texts])  # (B, T)
    counts = [work.new for work in works]
    cache = PagedCache(model.config, store, [work.text.pages for work in works], new)
    places = torch.tensor(counts, device=store.device)
    vectors = hidden(ids.to(store.device), cache, places)  # (B, T, D)
    cache.advance(counts)
    last = vectors[torch.arange(len(works), device=store.device), places - 1]  # (B, D)
    return model.logits(last), vectors
