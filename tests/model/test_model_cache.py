"""Cached decoding equals reading the whole text, however ragged the rows are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformer_options import (
    LATENT,
    OPTIONS,
    cache_of,
    exact_of,
    ids_of,
    model_of,
)

from langwright.base import UserError
from langwright.model import (
    KVCache,
)

RAGGED: dict[str, dict] = {
    "whole": {"kv_heads": 2},
    "window": {"window": 3, "reach": ("local", "global")},
    "window-alibi": {"window": 4, "position": "alibi"},
    "latent": {"latent": LATENT, "head_width": 5, "window": 2},
    "longrope": {**OPTIONS["window-longrope"], "window": 3},
    "ntk": OPTIONS["ntk"],
    "fastest": OPTIONS["fastest"],
    "fastest-window": OPTIONS["fastest-window"],
}


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(RAGGED)),
    st.lists(
        st.one_of(
            st.lists(st.integers(0, 1), min_size=3, max_size=3),  # of one new token
            st.lists(st.integers(0, 3), min_size=3, max_size=3),  # of three
            st.lists(st.integers(0, 7), min_size=3, max_size=3),
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from([None, (2, 0, 2), (1, 0, 2)]),
)
def test_any_ragged_advance_is_exact(name, steps, chosen):
    """Rows that advance by any different counts (0 included) equal each row alone."""
    model = exact_of(RAGGED[name])
    cache = cache_of(model, 40)
    rows = [torch.empty(0, dtype=torch.int64) for _ in range(3)]
    for number, counts in enumerate(steps):
        new = ids_of(3, max(1, *counts), number)
        logits = model(new, cache=cache, counts=torch.tensor(counts))
        cache.advance(counts)
        for b, count in enumerate(counts):
            rows[b] = torch.cat((rows[b], new[b, :count]))
            if count:
                alone = model(rows[b][None])[0, -count:]
                torch.testing.assert_close(logits[b, :count], alone, atol=1e-10, rtol=1e-9)
        if number == 0 and chosen:
            cache.select(chosen)
            rows = [rows[b] for b in chosen]


@pytest.mark.parametrize(
    "name", ["plain", "everything", "gemma-2-like", "window-alibi", "latent-plain-query", "ntk"]
)
def test_long_ragged_prompts_are_exact(name):
    """Prompts long enough for the CPU's sliced form, then three tokens at once, then one by one."""
    model = exact_of(OPTIONS[name])
    cache = cache_of(model, 40)
    rows, counts = [ids_of(1, 0, 0)[0]] * 3, torch.tensor([24, 9, 17])
    for number, new in enumerate((24, 3, 1, 1)):
        ids = ids_of(3, new, number)
        logits = model(ids, cache=cache, counts=counts)
        cache.advance(counts)
        for b, count in enumerate(counts.tolist()):
            rows[b] = torch.cat((rows[b], ids[b, :count]))
            alone = model(rows[b][None])[0, -count:]
            torch.testing.assert_close(logits[b, :count], alone, atol=1e-10, rtol=1e-9)
        counts = torch.tensor([3, 2, 1]) if number == 0 else torch.ones(3, dtype=torch.int64)


@pytest.mark.parametrize("options", [{}, {"window": 3}, OPTIONS["longrope"]])
@pytest.mark.parametrize("early", [False, True])
def test_cache_select_keeps_rows(options, early):
    """Before or after the new tokens are counted."""
    model = exact_of(options)
    cache = cache_of(model, 20)
    ids = ids_of(3, 6)
    model(ids, cache=cache, counts=torch.tensor([6, 2, 4]))
    if early:
        cache.select([2, 0, 2])
        cache.advance([4, 6, 4])
    else:
        cache.advance([6, 2, 4])
        cache.select(torch.tensor([2, 0, 2]))
    assert cache.lengths.tolist() == [4, 6, 4]
    new = ids_of(3, 1)
    logits = model(new, cache=cache)[:, -1]
    for b, (row, length) in enumerate(((2, 4), (0, 6), (2, 4))):
        alone = model(torch.cat((ids[row, :length], new[b]))[None])[0, -1]
        torch.testing.assert_close(logits[b], alone, atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("name,runs", [("longrope", 9), ("ntk", 12), ("yarn", 8)])
def test_a_text_is_read_again_only_where_its_angles_change(name, runs, monkeypatch):
    """A prompt of 3 and 7 more tokens, the original context 6: longrope changes once, at the 7th
    token; ntk with each of the 4 beyond."""
    model = model_of(OPTIONS[name])
    follow, calls = model._follow, []
    monkeypatch.setattr(model, "_follow", lambda *a: calls.append(a[0].shape) or follow(*a))
    cache = KVCache(model.config, batch=1, capacity=20)
    for count in (3, 1, 1, 1, 1, 1, 1, 1):
        model(ids_of(1, count), cache=cache)
        cache.advance(count)
    assert len(calls) == runs


def test_cache_in_bf16_is_close():
    model, ids = model_of({"kv_heads": 2}), ids_of(2, 20)
    exact = model(ids)[:, -1]
    model.compute_dtype = torch.bfloat16
    cache = KVCache(model.config, 2, 32, dtype=torch.bfloat16)
    model(ids[:, :-1], cache=cache)
    cache.advance(19)
    low = model(ids[:, -1:], cache=cache)[:, -1]
    assert ((low - exact).norm() / exact.norm()).item() < 0.05


def test_full_cache_is_told():
    model = model_of()
    cache = KVCache(model.config, 2, 8)
    model(ids_of(2, 6), cache=cache)
    cache.advance(6)
    with pytest.raises(UserError, match="full") as error:
        model(ids_of(2, 3), cache=cache)
    assert "at most 8" in str(error.value) and "= 9" in str(error.value)
    with pytest.raises(UserError, match="rows"):
        model(ids_of(3, 1), cache=cache)
    with pytest.raises(UserError, match="learned positions"):
        KVCache(model.config.replace(position="learned"), 1, 65)
    with pytest.raises(ValueError, match="segments"):
        model(ids_of(2, 1), cache=cache, segments=torch.zeros(2, 1))
