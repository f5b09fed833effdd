"""Packed rows: nothing lost, nothing twice, nothing leaking."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.dataset import IGNORE, PADDING, PackedRows, best_fit
from langwright.dataset.packing import cut_documents


def slow_best_fit(lengths, capacity):
    """Best-fit decreasing as the textbook writes it; the room left in each bin, sorted."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        room = min(fitting, default=capacity)
        if fitting:
            rooms.remove(room)
        rooms.append(room - length)
    return sorted(rooms)


@given(data=st.data(), capacity=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_best_fit_is_the_textbooks(data, capacity):
    lengths = np.array(data.draw(st.lists(st.integers(1, capacity), max_size=60)), dtype=np.int64)
    bins, count = best_fit(lengths, capacity)
    used = np.bincount(bins, weights=lengths, minlength=count)
    assert sorted((capacity - used).astype(int).tolist()) == slow_best_fit(lengths, capacity)
    assert set(bins.tolist()) == set(range(count))


def test_a_hundred_thousand_documents_fill_rows_well():
    rng = np.random.default_rng(0)
    lengths = np.minimum(1024, rng.lognormal(5, 1.2, 100_000).astype(np.int64) + 1)
    bins, count = best_fit(lengths, 1024)
    assert np.bincount(bins, weights=lengths).max() <= 1024
    assert lengths.sum() / (count * 1024) > 0.998


def test_impossible_lengths_are_refused():
    with pytest.raises(ValueError, match="between 1 and 4"):
        best_fit(np.array([5]), 4)


documents_strategy = st.lists(st.integers(1, 60), min_size=1, max_size=30)


def make_line(lengths):
    """Documents whose ids are all different, so that each can be found again."""
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return np.arange(1000, 1000 + offsets[-1]), offsets


@given(
    lengths=documents_strategy,
    width=st.integers(1, 40),
    headed=st.booleans(),
    seed=st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
def test_every_target_once_from_the_right_context(lengths, width, headed, seed):
    ids, offsets = make_line(lengths)
    head = 7 if headed else None
    if not headed and max(lengths) == 1:
        with pytest.raises(UserError, match="no document"):
            PackedRows(ids, offsets, width, head=head)
        return
    rows = PackedRows(ids, offsets, width, head=head, seed=seed)
    heads = {1000 + int(start) for start in offsets[:-1]}
    owner = dict(zip(ids.tolist(), np.repeat(np.arange(len(lengths)), lengths).tolist()))
    for epoch in range(2):
        batch = rows.batch(epoch * rows.epoch_rows, rows.epoch_rows)
        counted = batch.targets[batch.targets != IGNORE].tolist()
        expected = ids.tolist() if headed else [one for one in ids.tolist() if one not in heads]
        assert sorted(counted) == expected
        assert batch.tokens == rows.targets
    inputs, targets, segments, positions = (
        getattr(batch, name).numpy() for name in ("inputs", "targets", "segments", "positions")
    )
    for row in range(len(inputs)):
        for segment in range(segments[row].max() + 1):
            place = np.nonzero(segments[row] == segment)[0]
            assert (np.diff(place) == 1).all()  # a segment is one stretch
            assert positions[row, place].tolist() == list(range(len(place)))
            seen, wanted = inputs[row, place], targets[row, place]
            assert len({owner[one] for one in wanted}) == 1  # never across a document's border
            assert (seen[1:] == wanted[:-1]).all()
            if wanted[0] in heads:
                assert seen[0] == 7
            else:
                assert seen[0] == wanted[0] - 1
        padding = segments[row] == PADDING
        assert (targets[row][padding] == IGNORE).all() and not padding[0]
        assert (segments[row][~padding] >= 0).all()


def test_padding_comes_last_and_fill_says_how_much():
    ids, offsets = make_line([5, 3, 4])
    rows = PackedRows(ids, offsets, 9, head=7, shuffle=False)
    batch = rows.batch(0, rows.epoch_rows)
    assert rows.epoch_rows == 2 and rows.fill == pytest.approx(12 / 18)
    assert batch.segments.tolist() == [[0] * 5 + [1] * 4, [0] * 3 + [-1] * 6]
    assert batch.positions.tolist()[0] == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert batch.inputs.tolist()[0] == [7, 1000, 1001, 1002, 1003, 7, 1008, 1009, 1010]
    assert batch.targets.tolist()[0] == [*range(1000, 1005), *range(1008, 1012)]
    assert batch.segments.dtype.is_signed and batch.segments.element_size() == 4


def test_long_documents_cut_truncated_or_dropped():
    ids, offsets = make_line([25, 4])
    found = {}
    for long in ("cut", "truncate", "drop"):
        rows = PackedRows(ids, offsets, 10, head=7, long=long)
        batch = rows.batch(0, rows.epoch_rows)
        found[long] = sorted(batch.targets[batch.targets != IGNORE].tolist())
    assert found["cut"] == ids.tolist()
    assert found["truncate"] == [*range(1000, 1010), *range(1025, 1029)]
    assert found["drop"] == [*range(1025, 1029)]


def test_second_pass_has_another_order():
    ids, offsets = make_line([10] * 64)
    rows = PackedRows(ids, offsets, 10, head=7, seed=5)
    first, second = (rows.batch(start, 64).targets[:, 0].tolist() for start in (0, 64))
    assert first != second and sorted(first) == sorted(second)
    again = PackedRows(ids, offsets, 10, head=7, seed=5)
    assert again.fingerprint == rows.fingerprint
    assert again.batch(64, 64).targets[:, 0].tolist() == second
    other = PackedRows(ids, offsets, 10, head=7, seed=6)
    assert other.fingerprint != rows.fingerprint
    assert other.batch(0, 64).targets[:, 0].tolist() != first


@given(
    lengths=documents_strategy,
    width=st.integers(1, 30),
    headed=st.booleans(),
    data=st.data(),
)
@settings(max_examples=80, deadline=None)
def test_strides_count_once_with_enough_context(lengths, width, headed, data):
    stride = data.draw(st.integers(1, width))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    pieces = cut_documents(offsets[:-1], offsets[1:], width, headed=headed, stride=stride)
    counted = [
        position
        for start, length, skip in zip(pieces.start, pieces.length, pieces.skip)
        for position in range(start + skip, start + length)
    ]
    first = offsets[:-1] if headed else offsets[:-1] + 1
    assert sorted(counted) == [p for s, e in zip(first, offsets[1:]) for p in range(s, e)]
    assert len(pieces) == 0 or pieces.length.max() <= width
    later = ~np.isin(pieces.start, first)
    assert (pieces.skip[later] == width - stride).all()
    assert pieces.counted == len(counted)
