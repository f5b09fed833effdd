"""Mixing sources by weight."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.dataset import MixedRows, PackedRows, WindowRows, source_passes
from langwright.dataset.mixing import quotas


def source(number, rows, length=4):
    """Rows whose ids tell which source they come from."""
    return WindowRows(np.arange(rows * length + 1) + number * 10_000, length, seed=number)


@given(
    weights=st.lists(st.floats(0.001, 100), min_size=1, max_size=8),
    total=st.integers(8, 5000),
)
@settings(max_examples=100, deadline=None)
def test_quotas_add_up_and_are_near(weights, total):
    found = quotas(weights, total)
    exact = np.array(weights) / sum(weights) * total
    assert found.sum() == total and (found >= 1).all()
    assert (np.abs(found - exact) <= len(weights)).all()
    if (exact >= 1).all():
        assert (np.abs(found - exact) < 1).all()


def test_shares_hold_exactly_in_each_block_and_nearly_anywhere():
    rows = MixedRows([source(0, 50), source(1, 9), source(2, 70)], [5, 3, 2], block_rows=100)
    which, _ = rows.sources(np.arange(1000))
    for block in which.reshape(10, 100):
        assert np.bincount(block).tolist() == [50, 30, 20]
    running = np.cumsum(which[:, None] == np.arange(3), axis=0)  # (1000, 3)
    expected = np.arange(1, 1001)[:, None] * np.array([0.5, 0.3, 0.2])
    assert np.abs(running - expected).max() <= 2  # any stretch holds the shares, too
    assert not (which[:100] == which[100:200]).all()


@given(
    weights=st.lists(st.floats(0.01, 10), min_size=2, max_size=5),
    block=st.integers(8, 64),
    start=st.integers(0, 500),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_the_jth_row_of_a_source_is_its_row_j(weights, block, start, seed):
    parts = [source(number, 6) for number in range(len(weights))]
    rows = MixedRows(parts, weights, block_rows=block, seed=seed)
    which, inner = rows.sources(np.arange(start + 40))
    for number in range(len(weights)):
        assert inner[which == number].tolist() == list(range((which == number).sum()))
    alone_which, alone_inner = rows.sources(np.array([start + 39]))
    assert (alone_which[0], alone_inner[0]) == (which[-1], inner[-1])
    batch = rows.batch(start, 40)
    for row in range(40):
        number, index = which[start + row], int(inner[start + row])
        assert batch.inputs[row].tolist() == parts[number].row(index)["inputs"].tolist()


def test_passes_count_what_was_drawn():
    rows = MixedRows(
        [source(0, 50), source(1, 9)], [0.9, 0.1], names=["big", "small"], block_rows=20
    )
    which, _ = rows.sources(np.arange(137))
    counts = np.bincount(which)
    assert rows.passes(137) == pytest.approx({"big": counts[0] / 50, "small": counts[1] / 9})
    assert rows.passes(0) == {"big": 0, "small": 0}


def test_gpt3_mix():
    """GPT-3's corpus: passes over each source in 300 billion tokens."""
    shares = {"cc": 0.60, "webtext2": 0.22, "books1": 0.08, "books2": 0.08, "wikipedia": 0.03}
    sizes = {"cc": 410, "webtext2": 19, "books1": 12, "books2": 55, "wikipedia": 3}
    passes = source_passes(shares, sizes, 300)
    expected = {"cc": 0.44, "webtext2": 3.47, "books1": 2.0, "books2": 0.44, "wikipedia": 3.0}
    assert passes == pytest.approx(expected, abs=0.005)


def test_weight_zero_leaves_a_source_out():
    rows = MixedRows([source(0, 5), source(1, 5)], [0, 2], names=["a", "b"])
    assert rows.names == ["b"] and int(rows.batch(0, 30).inputs.min()) >= 10_000
    with pytest.raises(UserError, match="positive"):
        MixedRows([source(0, 5)], [0])
    with pytest.raises(UserError, match="weights"):
        MixedRows([source(0, 5)], [float("nan")])


def test_masked_and_unmasked_rows_mix():
    packed = PackedRows(np.arange(40), np.arange(0, 41, 2), 4, head=99)
    rows = MixedRows([packed, source(1, 9)], [1, 1], block_rows=8)
    which, inner = rows.sources(np.arange(8))
    batch = rows.batch(0, 8)
    for row in range(8):
        if which[row] == 1:
            assert batch.segments[row].tolist() == [0] * 4
            assert batch.positions[row].tolist() == [0, 1, 2, 3]
        else:
            expected = packed.row(int(inner[row]))
            assert batch.segments[row].tolist() == expected["segments"].tolist()
            assert batch.positions[row].tolist() == [0, 1, 0, 1]


def test_sequence_lengths_must_agree():
    with pytest.raises(ValueError, match="sequence lengths"):
        MixedRows([source(0, 5, length=4), source(1, 5, length=5)], [1, 1])
