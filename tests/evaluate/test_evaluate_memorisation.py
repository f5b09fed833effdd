"""Copies from the training text."""

from __future__ import annotations

import random
from difflib import SequenceMatcher

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.evaluate import memorisation, verbatim_copies


@pytest.fixture
def training() -> bytes:
    return bytes(random.Random(0).choices(b"abcdefgh \n", k=20_000))


def test_planted_copies(training: bytes) -> None:
    copied, other = training[500:580].decode(), training[9000:9049].decode()
    text = "Q" * 20 + copied + "Q" * 40 + other + "Q" * 11  # the second is one byte too short
    found = verbatim_copies([text, "Z" * 100], training)
    assert found.longest == 80 and found.example == copied
    assert found.shares == pytest.approx([80 / 200, 0.0])
    assert found.share == pytest.approx(80 / 300)


def test_whole_text_copied_across_chunks(training: bytes, monkeypatch) -> None:
    monkeypatch.setattr(memorisation, "CHUNK", 64)
    found = verbatim_copies([training[100:400].decode()], training)
    assert (found.share, found.longest) == (1.0, 300)


def test_two_copies_side_by_side_are_not_one(training: bytes) -> None:
    text = training[0:60].decode() + training[5000:5070].decode()
    found = verbatim_copies([text], training)
    assert found.share == 1.0
    assert found.longest in (70, 71)  # one more byte may agree by chance


def test_nothing_to_find(training: bytes) -> None:
    assert verbatim_copies(["ZZZZ"], training).longest == 0
    assert verbatim_copies([], training).share == 0.0
    assert verbatim_copies([""], training).shares == [0.0]
    assert verbatim_copies(["abc"], b"").longest == 0


def test_repetitive_text_stays_quick(training: bytes) -> None:
    found = verbatim_copies([" " * 400], b" " * 20_000)
    assert found.share == 1.0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.text("abc", max_size=60), max_size=3),
    st.text("abc", max_size=80),
    st.integers(1, 12),
)
def test_against_the_plain_search(texts: list[str], training: str, length: int) -> None:
    found = verbatim_copies(texts, training.encode(), length)
    for text, share in zip(texts, found.shares, strict=True):
        covered = [False] * len(text)
        for start in range(len(text) - length + 1):
            if text[start : start + length] in training:
                covered[start : start + length] = [True] * length
        assert share == pytest.approx(sum(covered) / len(text) if text else 0.0)
    longest = max(
        (
            SequenceMatcher(None, text, training, autojunk=False).find_longest_match().size
            for text in texts
        ),
        default=0,
    )
    assert found.longest == longest
    assert found.example in training
