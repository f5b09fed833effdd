"""The byte n-gram: a true distribution, equal to Kneser-Ney written out plainly."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.evaluate import ByteNgram
from langwright.evaluate.ngram import _discounts

TEXT = b"the cat sat on the mat. the dog sat on the log. a cat and a dog; the end."


def plain_probability(text: bytes, order: int, context: bytes, symbol: int) -> float:
    """Interpolated modified Kneser-Ney by its definition (Chen & Goodman 1998, eq. 23-26)."""
    if order == 0:
        return 1 / 256
    counts = Counter(text[i : i + 5] for i in range(len(text) - 4))
    for _ in range(5 - order):  # continuation counts
        counts = Counter(gram[1:] for gram in counts)
    discounts = _discounts(np.array(list(counts.values())))
    context = context[len(context) - (order - 1) :]
    followers = {gram: count for gram, count in counts.items() if gram[:-1] == context}
    lower = plain_probability(text, order - 1, context, symbol)
    if not followers:
        return lower
    total = sum(followers.values())
    count = followers.get(context + bytes([symbol]), 0)
    taken = sum(discounts[min(c, 3)] for c in followers.values())
    return (max(count - discounts[min(count, 3)], 0) + taken * lower) / total


def key(context: bytes) -> int:
    return int.from_bytes(context, "big")


@pytest.mark.parametrize("context", [b"the ", b" cat", b"zzzz", b"zzt ", b"\0\0\0\0", b"end."])
def test_equals_the_definition_and_sums_to_one(context: bytes) -> None:
    model = ByteNgram(TEXT, 5)
    every = np.arange(256)
    found = model.probabilities(np.full(256, key(context), dtype=np.uint64), every)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    expected = [plain_probability(TEXT, 5, context, symbol) for symbol in every]
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60), st.binary(min_size=6, max_size=6), st.integers(1, 7))
def test_sums_to_one_for_any_text(text: bytes, context: bytes, order: int) -> None:
    model = ByteNgram(text * 2, order)
    contexts = np.full(256, key(context[: order - 1]), dtype=np.uint64)
    chances = model.probabilities(contexts, np.arange(256))
    assert chances.sum() == pytest.approx(1.0, abs=1e-12)
    assert chances.min() > 0


def test_bits_add_up_over_the_text() -> None:
    model = ByteNgram(TEXT, 5)
    held = b"the cat and the dog"
    context, total = b"log.", 0.0
    for place, symbol in enumerate(held):
        before = (context + held[:place])[-4:]
        total -= np.log2(plain_probability(TEXT, 5, before, symbol))
    assert model.bits(held, b"a log.") == pytest.approx(total, rel=1e-12)
    assert model.bits(b"") == 0.0


def test_untrained_needs_eight_bits() -> None:
    assert ByteNgram(b"", 5).bits(b"abcd") == pytest.approx(32.0)


def test_more_context_helps_on_real_text() -> None:
    text = TEXT * 5
    bits = [ByteNgram(text, order).bits(b"the cat sat on the log.") for order in (1, 2, 3, 5)]
    assert bits == sorted(bits, reverse=True)
    with pytest.raises(ValueError, match="order"):
        ByteNgram(text, 8)
