"""Evaluation rows: the whole split once."""

import numpy as np
import pytest

from langwright.base import UserError
from langwright.dataset import IGNORE, eval_windows


def counted(batch):
    return batch.targets[batch.targets != IGNORE].tolist()


@pytest.mark.parametrize("packing", ["documents", "stream"])
@pytest.mark.parametrize("stride", [None, 16, 5, 1])
def test_each_target_is_counted_once(make_dataset, texts, packing, stride):
    folder = make_dataset({"train": {"s": texts}, "valid": {"s": texts[:20]}}, packing=packing)
    rows = eval_windows(folder, "valid", "s", stride=stride)
    batch = rows.batch(0, rows.epoch_rows)
    everything = [b for text in texts[:20] for b in [*text.encode(), 256]]
    assert sorted(counted(batch)) == sorted(everything)
    assert rows.targets == batch.tokens == len(everything)
    assert rows.bytes == sum(len(text.encode()) for text in texts[:20])
    assert rows.bytes_per_target == pytest.approx(rows.bytes / len(everything))
    assert (batch.segments is None) == (packing == "stream")


def test_the_first_token_is_predicted_from_the_separator(make_dataset):
    folder = make_dataset({"train": {"s": ["x" * 99]}, "valid": {"s": ["abc", "de"]}})
    batch = eval_windows(folder).batch(0, 1)
    assert batch.inputs[0, :7].tolist() == [256, 97, 98, 99, 256, 100, 101]
    assert batch.targets[0, :7].tolist() == [97, 98, 99, 256, 100, 101, 256]
    assert batch.segments[0].tolist() == [0] * 4 + [1] * 3 + [-1] * 9
    joined = eval_windows(folder, documents=False).batch(0, 1)
    assert joined.inputs[0, :7].tolist() == [256, 97, 98, 99, 256, 100, 101]
    assert joined.targets[0].tolist() == [97, 98, 99, 256, 100, 101, 256] + [IGNORE] * 9


def test_a_token_for_the_beginning_goes_first(make_dataset, byte_tokenizer):
    tokenizer = byte_tokenizer(vocab_size=258)
    tokenizer.bos_id = 257
    folder = make_dataset(
        {"train": {"s": ["x" * 99]}, "valid": {"s": ["abc", "de"]}}, tokenizer=tokenizer
    )
    batch = eval_windows(folder).batch(0, 1)
    assert batch.inputs[0, :7].tolist() == [257, 97, 98, 99, 257, 100, 101]
    assert batch.targets[0, :7].tolist() == [97, 98, 99, 256, 100, 101, 256]


def test_a_stride_gives_every_later_token_context(make_dataset):
    text = "".join(chr(33 + i) for i in range(60))
    folder = make_dataset({"train": {"s": [text]}, "valid": {"s": [text]}}, packing="stream")
    rows = eval_windows(folder, stride=4)
    batch = rows.batch(0, rows.epoch_rows)
    for row in range(rows.epoch_rows):
        places = np.nonzero(batch.targets[row].numpy() != IGNORE)[0]
        starts_text = int(batch.inputs[row, 0]) == 256
        assert places[0] == (0 if starts_text else 12)  # T - stride targets are context
        seen = batch.inputs[row][1 : places[-1] + 1].tolist()
        assert seen == [batch.inputs[row, 1].item() + i for i in range(len(seen))]


def test_rows_past_the_end_are_padding(make_dataset, texts):
    for packing in ("documents", "stream"):
        folder = make_dataset({"train": {"s": texts}, "valid": {"s": texts}}, packing=packing)
        rows = eval_windows(folder)
        batch = rows.batch(rows.epoch_rows - 1, 4)
        assert (batch.targets[1:] == IGNORE).all() and (batch.targets[0] != IGNORE).any()
        if batch.segments is not None:
            assert (batch.segments[1:] == -1).all()
        assert rows.batch(rows.epoch_rows + 5, 2).tokens == 0


def test_all_sources_together(make_dataset, texts):
    folder = make_dataset({"train": {"a": texts}, "valid": {"a": texts[:5], "b": texts[5:20]}})
    whole = eval_windows(folder)
    parts = [eval_windows(folder, "valid", name) for name in ("a", "b")]
    assert whole.epoch_rows == sum(part.epoch_rows for part in parts)
    assert whole.bytes == sum(part.bytes for part in parts)
    assert sorted(counted(whole.batch(0, whole.epoch_rows))) == sorted(
        counted(parts[0].batch(0, parts[0].epoch_rows))
        + counted(parts[1].batch(0, parts[1].epoch_rows))
    )


@pytest.mark.parametrize("packing", ["documents", "stream"])
def test_without_a_separator_unpredicted_bytes_are_not_counted(
    make_dataset, byte_tokenizer, packing
):
    folder = make_dataset(
        {"train": {"s": ["x" * 99]}, "valid": {"s": ["abc", "de"]}},
        tokenizer=byte_tokenizer(vocab_size=256, eos=False),
        packing=packing,
    )
    rows = eval_windows(folder)
    expected = {"documents": [98, 99, 101], "stream": [98, 99, 100, 101]}[packing]
    assert sorted(counted(rows.batch(0, rows.epoch_rows))) == expected
    assert rows.bytes == rows.targets == len(expected)  # one byte a token


def test_wrong_requests(make_dataset, texts):
    folder = make_dataset({"train": {"s": texts}})
    with pytest.raises(UserError, match="no such split"):
        eval_windows(folder, "valid")
    with pytest.raises(UserError, match="stride"):
        eval_windows(folder, "train", stride=17)
    assert eval_windows(folder, "train", sequence_length=64).sequence_length == 64
