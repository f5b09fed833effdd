"""Giving documents to splits: shares, duplicates, cuts by position."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.corpus import CorpusConfig
from langwright.corpus.lines import merge_groups
from langwright.corpus.plan import drop_duplicates, plan_splits
from langwright.corpus.split import (
    Part,
    enough_documents,
    split_groups,
    split_positions,
)
from langwright.corpus.staging import Entry

SHARES = {"valid": 0.05, "test": 0.05}


def _entry(
    name: str, size: int = 100, key: str = "", source: str = "s", whole: bool = False
) -> Entry:
    key = key or name
    return Entry(source, f"g-{key}", source, name, size, size, key.encode(), whole)


def test_shares_are_met_in_every_stratum() -> None:
    draw = random.Random(1)
    sizes = {
        f"m{n}": {"docs": draw.randint(100, 5000), "code": draw.randint(1000, 90_000)}
        for n in range(200)
    }
    split = split_groups(sizes, SHARES, seed=0)
    for stratum in ("docs", "code"):
        total = sum(strata[stratum] for strata in sizes.values())
        for name in ("valid", "test"):
            held = sum(sizes[group][stratum] for group in sizes if split[group] == name)
            assert 0.04 < held / total < 0.056
    assert split == split_groups(dict(reversed(sizes.items())), SHARES, seed=0)
    assert split != split_groups(sizes, SHARES, seed=1)


def test_a_held_out_split_is_not_left_empty() -> None:
    sizes = {"a": {"s": 1000}, "b": {"s": 900}, "c": {"s": 800}}
    split = split_groups(sizes, SHARES, seed=0)
    assert sorted(split.values()) == ["test", "train", "valid"]
    assert split["a"] == "train"
    assert split_groups({"a": {"s": 1}}, SHARES, seed=0) == {"a": "train"}
    assert split_groups({}, SHARES, seed=0) == {}


def test_position_split_is_the_first_ninety_percent() -> None:
    # Fact B10: text[:int(0.9 * len(text))] for training; nanoGPT's split of Tiny Shakespeare.
    n = 1_115_394
    (parts,) = split_positions([n], {"valid": 0.1, "test": 0.0})
    assert parts == [Part("train", 0, 1_003_854), Part("valid", 1_003_854, n)]
    assert int(0.9 * n) == 1_003_854
    (parts,) = split_positions([100], SHARES)
    assert parts == [Part("train", 0, 90), Part("valid", 90, 95), Part("test", 95, 100)]


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=6),
    valid=st.floats(0, 0.4),
    test=st.floats(0, 0.4),
)
def test_position_split_loses_nothing(lengths: list[int], valid: float, test: float) -> None:
    plan = split_positions(lengths, {"valid": valid, "test": test})
    order = [part.split for parts in plan for part in parts]
    assert order == sorted(order, key=["train", "valid", "test"].index)
    for length, parts in zip(lengths, plan, strict=True):
        assert parts[0].start == 0
        assert parts[-1].end == length
        assert all(a.end == b.start for a, b in pairwise(parts))
        assert all(part.end > part.start for part in parts)


def test_few_documents_are_cut_and_many_are_not() -> None:
    assert not enough_documents(19, SHARES)
    assert enough_documents(20, SHARES)
    config = CorpusConfig(sources=["s"])
    few = plan_splits([_entry("one", 1000), _entry("two", 200)], config)
    assert [[part.end - part.start for part in parts] for parts in few] == [
        [900, 50, 50],
        [180, 10, 10],
    ]
    many = plan_splits([_entry(f"d{n}") for n in range(40)], config)
    assert all(parts == [Part(parts[0].split, 0, 100)] for parts in many)
    assert [parts[0].split for parts in many].count("valid") == 2
    forced = plan_splits([_entry(f"d{n}") for n in range(4)], config.replace(split="documents"))
    assert sorted(parts[0].split for parts in forced) == ["test", "train", "train", "valid"]


def test_duplicates_stay_in_training() -> None:
    entries = [_entry(f"m{n}", whole=True) for n in range(100)]
    plan = plan_splits(entries, CorpusConfig(sources=["s"]))
    held = next(n for n, parts in enumerate(plan) if parts[0].split == "valid")
    trained = next(n for n, parts in enumerate(plan) if n > held and parts[0].split == "train")
    entries[trained] = Entry("s", "g-x", "s", "x", 100, 100, entries[held].key, True)
    assert drop_duplicates(entries, plan) == {"s": 1}
    assert plan[held] == []
    assert plan[trained][0].split == "train"


def test_equal_documents_of_two_sources_share_a_split() -> None:
    entries = [_entry(f"{s}{n}", key=f"k{n}", source=s) for s in "ab" for n in range(60)]
    plan = plan_splits(entries, CorpusConfig(sources=["a", "b"], deduplicate=False))
    assert [parts[0].split for parts in plan[:60]] == [parts[0].split for parts in plan[60:]]


def test_groups_that_repeat_each_other_are_joined() -> None:
    lines = [f"a line of the text that is long enough, number {n}" for n in range(60)]
    joined = merge_groups(
        [
            ("one", "\n".join(lines[:20])),
            ("two", "\n".join(lines[15:40])),  # a fifth of `one`
            ("three", "\n".join(lines[40:60])),
            ("three", "short\n" * 5),
            ("four", "short\n" * 5),
        ]
    )
    assert joined["one"] == joined["two"]
    assert len({joined[name] for name in ("one", "three", "four")}) == 3


@pytest.mark.parametrize("count", [20, 25, 50, 200])
def test_equal_sized_documents_fill_the_shares(count: int) -> None:
    split = split_groups({f"d{n}": {"s": 100} for n in range(count)}, SHARES, seed=3)
    for name in ("valid", "test"):
        held = sum(value == name for value in split.values())
        assert 1 <= held <= max(1, round(count * 0.055))
