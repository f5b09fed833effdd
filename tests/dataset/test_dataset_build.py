"""The stage, and opening what it made."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError, read_json
from langwright.dataset import (
    IGNORE,
    DatasetConfig,
    MixedRows,
    TokenShards,
    open_rows,
    open_training_rows,
    write_dataset,
)

PACKINGS = ["documents", "stream", "random", "windows"]


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_dataset_says_how_it_is_trained_on(make_dataset, texts, packing):
    folder = make_dataset(
        {"train": {"a": texts[:40], "b": texts[40:]}},
        packing=packing,
        weights={"a": 3, "b": 1},
        shard_tokens=100,
    )
    rows = open_training_rows(folder, seed=5)
    assert isinstance(rows, MixedRows) and rows.names == ["a", "b"]
    assert rows.quotas.tolist() == [3072, 1024]
    batch = rows.batch(10, 6)
    assert batch.inputs.shape == (6, 16)
    again = open_training_rows(str(folder), seed=5)
    assert again.fingerprint == rows.fingerprint
    assert again.batch(10, 6).inputs.equal(batch.inputs)
    other = open_training_rows(folder, seed=6)
    assert other.fingerprint != rows.fingerprint
    assert not other.batch(10, 6).inputs.equal(batch.inputs)


@pytest.mark.parametrize("packing", PACKINGS)
@given(
    start=st.integers(0, 2000),
    world=st.sampled_from([1, 2, 3, 4, 8]),
    micro=st.integers(1, 8),
    data=st.data(),
)
@settings(max_examples=15, deadline=None)
def test_any_readers_any_order_same_bytes(
    dataset_of_each_packing, packing, start, world, micro, data
):
    """A global batch of 24 rows: whole, or by any number of readers in any order of asking."""
    folder = dataset_of_each_packing[packing]
    whole = open_training_rows(folder, seed=1).batch(start, 24)
    share = 24 // world
    parts = {}
    for rank in data.draw(st.permutations(range(world))):
        reader = open_training_rows(folder, seed=1)  # each process opens for itself
        reader.batch(data.draw(st.integers(0, 3000)), 3)  # and may have read anything before
        parts[rank] = reader.batch(start + rank * share, share).split(micro)
    for name in ("inputs", "targets", "segments", "positions"):
        expected = getattr(whole, name)
        if expected is None:
            continue
        pieces = [getattr(one, name).numpy() for rank in range(world) for one in parts[rank]]
        assert np.concatenate(pieces).tobytes() == expected.numpy().tobytes()
    assert whole.tokens == sum(one.tokens for part in parts.values() for one in part)


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_seed_decides_the_order_of_a_single_source(make_dataset, texts, packing):
    folder = make_dataset({"train": {"a": texts}}, packing=packing, seed=3)
    found = {
        seed: open_training_rows(folder, seed=seed).batch(0, 20).inputs.tolist()
        for seed in (None, 3, 4)
    }
    assert found[None] == found[3] != found[4]


def test_by_size_where_no_weights_are_given(make_dataset, texts):
    folder = make_dataset({"train": {"a": texts * 3, "b": texts}}, packing="stream")
    rows = open_training_rows(folder)
    passes = rows.passes(rows.epoch_rows)
    assert passes == pytest.approx({"a": 1.0, "b": 1.0}, abs=0.01)


def test_options_can_be_changed_when_opening(make_dataset, texts):
    folder = make_dataset({"train": {"a": texts}}, packing="windows", stride=4)
    length = len(TokenShards(folder).stream("train", "a"))
    assert open_training_rows(folder).epoch_rows == -(-(length - 16) // 4)
    stream = open_rows(folder, "train", kind="stream", sequence_length=32)
    assert stream.epoch_rows == -(-(length - 32) // 32)
    assert open_rows(folder, "train", kind="random").epoch_rows == length // 16
    in_order = open_rows(folder, "train", kind="stream", shuffle=False).batch(0, 3)
    begin = [b for text in texts for b in [*text.encode(), 256]][:48]
    assert in_order.inputs.flatten().tolist() == begin
    with pytest.raises(UserError, match="sequence_length"):
        open_rows(folder, "train", sequence_length=0)


def test_counts_and_metrics(tmp_path, byte_tokenizer, texts):
    out = tmp_path / "d"
    metrics = write_dataset(
        DatasetConfig(sequence_length=32),
        {"train": {"a": lambda: [*texts, ""]}, "valid": {"a": lambda: texts[:3]}},
        byte_tokenizer(),
        out,
    )
    size = sum(len(text.encode()) for text in texts)
    assert metrics["splits"]["train"]["a"] == {
        "documents": 60,
        "tokens": size + 60,
        "text_bytes": size,
        "bytes_per_token": round(size / (size + 60), 4),
        "empty_documents": 1,
    }
    assert metrics["id_type"] == "uint16" and metrics["packing"] == "documents"
    assert metrics["training_rows"] == open_training_rows(out).epoch_rows
    assert 0.9 < metrics["training"]["a"]["fill"] <= 1
    assert read_json(out / "dataset.json")["splits"]["train"]["a"]["documents"] == 60


def test_where_the_separator_stands(make_dataset):
    found = {}
    for eos in ("after", "between", "none"):
        folder = make_dataset({"train": {"a": ["ab", "c"]}}, name=eos, eos=eos, sequence_length=1)
        stream = TokenShards(folder).stream("train", "a")
        found[eos] = stream.slice(0, len(stream)).tolist()
    assert found == {
        "after": [97, 98, 256, 99, 256],
        "between": [97, 98, 256, 99],
        "none": [97, 98, 99],
    }


def test_control_tokens_in_documents_only_where_allowed(make_dataset):
    text = ["a<|endoftext|>b"]
    plain = TokenShards(make_dataset({"train": {"a": text}}, name="plain", sequence_length=2))
    assert len(plain.stream("train", "a")) == 16  # 15 bytes and the separator
    allowed = make_dataset(
        {"train": {"a": text}}, name="open", sequence_length=2, allow_special=["<|endoftext|>"]
    )
    assert TokenShards(allowed).stream("train", "a").slice(0, 4).tolist() == [97, 256, 98, 256]


def test_an_interrupted_build_keeps_finished_sources(tmp_path, byte_tokenizer):
    reads: list[str] = []

    def texts_of(name, fail=False):
        def texts():
            reads.append(name)
            yield f"some text of {name}, long enough"
            if fail:
                raise KeyboardInterrupt

        return texts

    config = DatasetConfig(sequence_length=8)
    for fail in (True, False):
        splits = {"train": {"a": texts_of("a"), "b": texts_of("b", fail)}}
        try:
            write_dataset(config, splits, byte_tokenizer(), tmp_path, key="one")
        except KeyboardInterrupt:
            assert not (tmp_path / "dataset.json").exists()
    assert reads == ["a", "b", "b"]
    TokenShards(tmp_path).verify()
    write_dataset(config, splits, byte_tokenizer(), tmp_path, key="another corpus")
    assert reads == ["a", "b", "b", "a", "b"]
    write_dataset(
        config.replace(eos="none"), splits, byte_tokenizer(), tmp_path, key="another corpus"
    )
    assert reads[5:] == ["a", "b"]
    leftovers = [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    assert leftovers == []


def test_mistakes_are_explained(make_dataset, texts, byte_tokenizer, tmp_path):
    def make(splits=None, **options):
        return make_dataset(splits or {"train": {"docs": texts}}, **options)

    with pytest.raises(UserError, match="did you mean 'docs'"):
        make(weights={"dcs": 1})
    with pytest.raises(UserError, match="no weight"):
        make({"train": {"docs": texts, "code": texts}}, weights={"docs": 1})
    with pytest.raises(UserError, match="no training text"):
        make({"valid": {"docs": texts}})
    with pytest.raises(UserError, match="too short") as caught:
        make({"train": {"docs": ["short"]}}, packing="stream", sequence_length=100)
    assert "source 'docs'" in str(caught.value) and "6 tokens" in str(caught.value)
    with pytest.raises(UserError, match="between"):
        make(eos="between", tokenizer=byte_tokenizer(256, eos=False))
    with pytest.raises(UserError, match="plain file name"):
        make({"train": {"../x": texts}})
    with pytest.raises(UserError, match="no training text holds a token"):
        make({"train": {"docs": [""]}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stride": 4}, "stride"),
        ({"packing": "random", "min_length": 999}, "min_length"),
        ({"min_length": 3}, "min_length"),
        ({"weights": {"a": -1.0}}, "negative"),
        ({"weights": {"a": 0.0}}, "positive"),
        ({"packing": "bags"}, "packing"),
        ({"sequence_lenght": 5}, "did you mean 'sequence_length'"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(UserError, match=message):
        DatasetConfig.parse(options)


def test_every_option_is_described():
    assert all(field.description for field in DatasetConfig.model_fields.values())


def test_padded_windows_when_the_last_is_kept(make_dataset):
    folder = make_dataset(
        {"train": {"a": ["x" * 39]}}, packing="stream", drop_last=False, sequence_length=16
    )
    rows = open_training_rows(folder)
    assert rows.epoch_rows == 3
    assert (rows.batch(0, 3).targets != IGNORE).sum() == 39
