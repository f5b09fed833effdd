"""Sliding windows and random chunks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.dataset import IGNORE, RandomChunkRows, WindowRows


@given(count=st.integers(2, 300), length=st.integers(1, 50), stride=st.integers(1, 60))
@settings(max_examples=80, deadline=None)
def test_windows_are_the_books(count, length, stride):
    ids = np.arange(1000, 1000 + count)
    expected = [(i, i + length) for i in range(0, count - length, stride)]  # listing 2.5
    if not expected:
        with pytest.raises(UserError, match="too short"):
            WindowRows(ids, length, stride=stride)
        return
    rows = WindowRows(ids, length, stride=stride, shuffle=False)
    assert rows.epoch_rows == len(expected) == -(-(count - length) // stride)
    batch = rows.batch(0, len(expected))
    for row, (start, stop) in enumerate(expected):
        assert batch.inputs[row].tolist() == ids[start:stop].tolist()
        assert batch.targets[row].tolist() == ids[start + 1 : stop + 1].tolist()


@given(count=st.integers(2, 200), length=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_keeping_the_last_window_covers_every_target_once(count, length):
    ids = np.arange(count)
    rows = WindowRows(ids, length, shuffle=False, drop_last=False)
    batch = rows.batch(0, rows.epoch_rows)
    assert batch.targets[batch.targets != IGNORE].tolist() == list(range(1, count))
    assert batch.tokens == count - 1
    assert int(batch.inputs.min()) >= 0


def test_rows_are_shuffled_by_seed_and_differ_by_pass():
    rows = WindowRows(np.arange(1001), 10, seed=3)
    assert rows.epoch_rows == 100
    one, two = (rows.batch(start, 100).inputs[:, 0].tolist() for start in (0, 100))
    assert sorted(one) == sorted(two) == list(range(0, 1000, 10))
    assert one != two
    assert one == WindowRows(np.arange(1001), 10, seed=3).batch(0, 100).inputs[:, 0].tolist()
    assert one != WindowRows(np.arange(1001), 10, seed=4).batch(0, 100).inputs[:, 0].tolist()


def test_random_chunks_reach_both_ends_and_no_further():
    rows = RandomChunkRows(np.arange(14, dtype=np.uint16), 10, seed=1)
    batch = rows.batch(0, 400)
    starts = batch.inputs[:, 0]
    assert set(starts.tolist()) == {0, 1, 2, 3}  # [0, n - T - 1]
    assert int(batch.targets.max()) == 13
    assert (batch.targets - batch.inputs == 1).all()
    assert all(70 < count < 130 for count in np.bincount(starts.numpy()))
    assert batch.inputs.dtype == batch.targets.dtype == __import__("torch").int64


def test_random_chunks_need_one_whole_row():
    assert RandomChunkRows(np.arange(11), 10).batch(0, 2).inputs.tolist() == [list(range(10))] * 2
    with pytest.raises(UserError, match="at least 11"):
        RandomChunkRows(np.arange(10), 10)


def test_rows_of_varying_length():
    rows = RandomChunkRows(np.arange(500), 10, seed=1, min_length=4)
    batch = rows.batch(0, 700)
    lengths = (batch.targets != IGNORE).sum(1)
    assert set(lengths.tolist()) == set(range(4, 11))
    assert all(60 < count < 140 for count in np.bincount(lengths.numpy())[4:])
    counted = batch.targets != IGNORE
    assert (counted.int().diff(dim=1) <= 0).all()  # counted targets come first
    assert rows.row(5)["targets"].tolist() == batch.targets[5].tolist()


def test_separate_files_for_training_and_validation(tmp_path):
    from langwright.dataset import TokenArray

    for name, low in (("train", 0), ("valid", 500)):
        np.arange(low, low + 100, dtype="<u2").tofile(tmp_path / f"{name}.bin")
    train, valid = (
        RandomChunkRows(TokenArray.from_file(tmp_path / f"{name}.bin"), 8, seed=0)
        for name in ("train", "valid")
    )
    assert int(train.batch(0, 50).to("cpu").targets.max()) < 100
    assert int(valid.batch(0, 50).targets.min()) >= 500
    assert train.fingerprint != valid.fingerprint
