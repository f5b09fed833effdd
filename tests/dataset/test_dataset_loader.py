"""Batches, torch loaders, prefetching, views."""

import threading

import numpy as np
import pytest
import torch

from langwright.dataset import (
    Batch,
    PackedRows,
    Prefetcher,
    RowsDataset,
    WindowRows,
    book_loader,
    growing_context,
    row_loader,
    show_row,
)


class Numbers:
    """A tokenizer whose text is numbers."""

    special_tokens = {"<|endoftext|>": 0}

    def encode(self, text, *, allowed_special=()):
        assert allowed_special == {"<|endoftext|>"}
        return [0 if word == "<|endoftext|>" else int(word) for word in text.split()]

    def decode(self, ids):
        return " ".join(str(one) for one in ids)


STORY = " ".join(str(number) for number in range(1, 1001))


def test_batch_counts_splits_and_moves():
    targets = torch.tensor([[1, -100], [-100, -100], [3, 4]])
    batch = Batch(torch.ones(3, 2, dtype=torch.int64), targets, segments=targets.int())
    assert batch.tokens == 3 and batch.rows == 3
    parts = batch.split(2)
    assert [part.tokens for part in parts] == [1, 2]
    assert torch.cat([part.targets for part in parts]).equal(targets)
    assert parts[0].segments is not None and parts[0].positions is None
    assert batch.to("cpu").tokens == 3
    with pytest.raises(ValueError, match="micro_rows"):
        batch.split(0)


def test_book_defaults():
    batches = list(book_loader(STORY, Numbers()))
    assert len(batches) == 1  # 6 windows of 256 every 128: one batch of 4, the short one dropped
    inputs, targets = batches[0]
    assert inputs.shape == targets.shape == (4, 256) and inputs.dtype == torch.int64
    assert (targets - inputs == 1).all()


def test_book_example_with_small_windows():
    """Listing 2.6's settings: batches of 8 windows of 4, stride 4, in order."""
    loader = book_loader(STORY, Numbers(), 8, 4, 4, shuffle=False)
    inputs, targets = next(iter(loader))
    assert inputs.tolist() == [[4 * row + i for i in range(1, 5)] for row in range(8)]
    assert targets.tolist() == [[4 * row + i for i in range(2, 6)] for row in range(8)]
    overlapping = book_loader(STORY, Numbers(), 1, 4, 1, shuffle=False)
    first, second = (batch for batch, _ in zip(overlapping, range(2)))
    assert first[0].tolist() == [[1, 2, 3, 4]] and second[0].tolist() == [[2, 3, 4, 5]]


def test_drop_last_of_the_loader():
    for drop, sizes in ((True, [4]), (False, [4, 2])):
        loader = book_loader(STORY, Numbers(), drop_last=drop)
        assert [len(inputs) for inputs, _ in loader] == sizes


def test_shuffling_is_seeded_and_each_pass_differs():
    def passes(seed):
        loader = book_loader(STORY, Numbers(), 1, 10, 10, seed=seed)
        return [[int(inputs[0, 0]) for inputs, _ in loader] for _ in range(2)]

    first, second = passes(1)
    assert first != second and sorted(first) == sorted(second) == list(range(1, 991, 10))
    assert passes(1) == [first, second] != passes(2)
    torch.manual_seed(123)
    one = [int(inputs[0, 0]) for inputs, _ in book_loader(STORY, Numbers(), 1, 10, 10)]
    torch.manual_seed(123)
    two = [int(inputs[0, 0]) for inputs, _ in book_loader(STORY, Numbers(), 1, 10, 10)]
    assert one == two


def test_worker_processes_read_the_same(make_dataset, texts):
    from langwright.dataset import open_training_rows

    rows = open_training_rows(make_dataset({"train": {"a": texts}}))
    rows.batch(0, 1)  # files are open before the workers start
    alone = [tuple(t.tolist() for t in batch) for batch in row_loader(rows, 8)]
    workers = [tuple(t.tolist() for t in batch) for batch in row_loader(rows, 8, num_workers=2)]
    assert alone == workers and len(alone[0]) == 4


def test_dataset_protocol_and_epochs():
    data = RowsDataset(WindowRows(np.arange(101), 10, seed=1))
    assert len(data) == 10
    first = [int(data[i][0][0]) for i in range(len(data))]
    data.set_epoch(1)
    second = [int(data[i][0][0]) for i in range(len(data))]
    assert sorted(first) == sorted(second) == list(range(0, 100, 10)) and first != second
    for outside in (-1, 10):
        with pytest.raises(IndexError):
            data[outside]


def test_prefetched_batches_are_the_rows():
    rows = WindowRows(np.arange(1001), 10, seed=1)
    with Prefetcher(rows, 7, 3, steps=5) as batches:
        found = torch.cat([batch.inputs for batch in batches])
    assert found.equal(rows.batch(7, 15).inputs)
    with Prefetcher(rows, 2, 2, steps=3, skip=6) as batches:  # reader 1 of 4
        starts = [int(batch.inputs[0, 0]) for batch in batches]
    assert starts == [int(rows.batch(at, 1).inputs[0, 0]) for at in (2, 10, 18)]


def test_prefetching_passes_errors_on_and_ends_its_thread():
    class Broken(WindowRows):
        def gather(self, indices):
            if indices[0] >= 4:
                raise RuntimeError("disk gone")
            return super().gather(indices)

    before = threading.active_count()
    batches = Prefetcher(Broken(np.arange(1001), 10), 0, 2)
    assert next(batches).rows == next(batches).rows == 2
    with pytest.raises(RuntimeError, match="disk gone"):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)
    endless = Prefetcher(WindowRows(np.arange(1001), 10), 0, 2)
    next(endless)
    endless.close()
    endless.close()
    assert threading.active_count() == before


def test_growing_context():
    shown = list(growing_context([40, 367, 2885], Numbers()))
    assert [(one.context, one.target) for one in shown] == [([40], 367), ([40, 367], 2885)]
    assert str(shown[1]) == "[40, 367] ----> 2885\n'40 367' ----> '2885'"
    assert str(next(growing_context(np.array([40, 367])))) == "[40] ----> 367"


def test_a_row_shown():
    rows = PackedRows(np.arange(10, 17), np.array([0, 4, 7]), 8, head=9, shuffle=False)
    shown = show_row(rows.batch(0, 1), 0, Numbers()).splitlines()
    assert shown == [
        "[0] 4 tokens, 4 targets: '9 10 11 12'",
        "[1] 3 tokens, 3 targets: '9 14 15'",
        "padding: 1 places",
    ]


def test_pinned_batches_on_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    rows = WindowRows(np.arange(1001), 10, seed=1)
    assert rows.batch(0, 2).pin_memory().inputs.is_pinned()
    with Prefetcher(rows, 0, 3, steps=3, device="cuda") as batches:
        found = torch.cat([batch.inputs for batch in batches])
    assert found.device.type == "cuda" and found.cpu().equal(rows.batch(0, 9).inputs)
