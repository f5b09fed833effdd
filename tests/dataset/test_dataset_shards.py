"""Token shards: what is written is what is read, and damage is named."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError, read_json, write_json
from langwright.dataset import (
    DatasetConfig,
    ShardWriter,
    TokenArray,
    TokenShards,
    id_dtype,
    write_dataset,
    write_token_file,
)
from langwright.dataset.shards import DatasetManifest, TokenStream


def write_stream(folder, documents, *, vocab=300, separator=256, between=False, shard_tokens=7):
    with ShardWriter(
        folder / "train" / "s",
        vocab_size=vocab,
        separator=separator,
        between=between,
        shard_tokens=shard_tokens,
    ) as writer:
        for start in range(0, len(documents), 3):
            part = documents[start : start + 3]
            writer.add([np.array(one) for one in part], [2 * len(one) for one in part])
        info = writer.finish()
    manifest = DatasetManifest(
        vocab_size=vocab,
        dtype=id_dtype(vocab).str,
        separator=separator,
        config=DatasetConfig(),
        splits={"train": {"s": info}},
    )
    write_json(folder / "dataset.json", manifest.to_json())
    return TokenShards(folder)


@given(
    documents=st.lists(st.lists(st.integers(0, 255), max_size=20), min_size=1, max_size=12),
    shard_tokens=st.integers(1, 30),
    between=st.booleans(),
    wide=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_round_trip(tmp_path_factory, documents, shard_tokens, between, wide):
    documents = [*documents, [1, 2]]
    folder = tmp_path_factory.mktemp("shards")
    stream = write_stream(
        folder,
        documents,
        vocab=70_000 if wide else 300,
        between=between,
        shard_tokens=shard_tokens,
    ).stream("train", "s")
    kept = [one for one in documents if one]
    expected = [one + [256] for one in kept]
    if between:
        expected[-1] = expected[-1][:-1]
    flat = [one for document in expected for one in document]
    assert stream.slice(0, len(stream)).tolist() == flat
    assert [stream.document(i).tolist() for i in range(len(kept))] == expected
    assert stream.document_bytes.tolist() == [2 * len(one) for one in kept]
    assert stream.info.empty == len(documents) - len(kept)
    sizes = [shard.tokens for shard in stream.info.shards]
    assert all(size == shard_tokens for size in sizes[:-1]) and sum(sizes) == len(flat)
    some = np.random.default_rng(0).integers(0, len(flat), (3, 5))
    assert (stream.gather(some) == np.array(flat)[some]).all()
    assert stream.gather(some).dtype == np.int64  # 16-bit ids are widened for the embedding
    stream.verify()


@pytest.mark.parametrize(
    ("vocab", "dtype"), [(65, "<u2"), (65_536, "<u2"), (65_537, "<u4"), (128_000, "<u4")]
)
def test_ids_take_16_bits_up_to_a_vocabulary_of_65536(vocab, dtype):
    assert id_dtype(vocab).str == dtype


def test_largest_ids_survive(tmp_path):
    for name, vocab in (("narrow", 65_536), ("wide", 128_000)):
        shards = write_stream(tmp_path / name, [[0, vocab - 1]], vocab=vocab, separator=5)
        assert shards.stream("train", "s").slice(0, 3).tolist() == [0, vocab - 1, 5]
        file = tmp_path / name / "train" / "s" / "tokens-00000.bin"
        raw = np.frombuffer(file.read_bytes(), dtype=id_dtype(vocab))
        assert raw.tolist() == [0, vocab - 1, 5]


def test_an_id_outside_the_vocabulary_is_refused(tmp_path):
    with pytest.raises(UserError, match="outside its vocabulary") as caught:
        write_stream(tmp_path, [[1, 300]], vocab=300)
    assert "300" in str(caught.value)
    assert not list(tmp_path.rglob("*.npy"))  # nothing that could be taken for a whole source
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_ids_on_disk_are_checked_against_the_vocabulary(tmp_path):
    shards = write_stream(tmp_path, [[1, 250]], separator=2)
    content = read_json(tmp_path / "dataset.json")
    content["vocab_size"] = 250
    write_json(tmp_path / "dataset.json", content)
    stream = TokenShards(tmp_path).stream("train", "s")
    assert stream.slice(0, 1).tolist() == [1]
    with pytest.raises(UserError, match="250"):
        stream.slice(0, 2)
    assert shards.stream("train", "s").slice(0, 2).tolist() == [1, 250]


def test_truncated_and_missing_files_are_named(tmp_path):
    write_stream(tmp_path, [list(range(40))])
    part = tmp_path / "train" / "s" / "tokens-00003.bin"
    whole = part.read_bytes()
    part.write_bytes(whole[:-1])
    with pytest.raises(UserError, match=r"tokens-00003\.bin") as caught:
        TokenShards(tmp_path).stream("train", "s")
    assert "13 bytes" in str(caught.value) and "14 bytes" in str(caught.value)
    part.unlink()
    with pytest.raises(UserError, match="no such file"):
        TokenShards(tmp_path).stream("train", "s")
    part.write_bytes(whole)
    for table in ("offsets.npy", "bytes.npy"):
        path = tmp_path / "train" / "s" / table
        content = path.read_bytes()
        path.write_bytes(content[:-2])
        with pytest.raises(UserError, match=table):
            TokenShards(tmp_path).stream("train", "s")
        path.write_bytes(content)
    TokenShards(tmp_path).verify()


def test_verify_finds_a_changed_byte(tmp_path):
    shards = write_stream(tmp_path, [list(range(40))])
    part = tmp_path / "train" / "s" / "tokens-00001.bin"
    content = bytearray(part.read_bytes())
    content[0] ^= 1
    part.write_bytes(content)
    shards.stream("train", "s")  # sizes still fit
    with pytest.raises(UserError, match=r"tokens-00001\.bin"):
        shards.verify()


def test_a_pickled_table_is_not_loaded(tmp_path):
    write_stream(tmp_path, [[1, 2, 3]])
    np.save(tmp_path / "train" / "s" / "bytes.npy", np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match=r"bytes\.npy"):
        TokenShards(tmp_path).stream("train", "s")


def test_unknown_names_and_foreign_folders(tmp_path):
    shards = write_stream(tmp_path / "d", [[1, 2, 3]])
    with pytest.raises(UserError, match="did you mean 'train'"):
        shards.sources("trian")
    with pytest.raises(UserError, match="no such source"):
        shards.stream("train", "other")
    with pytest.raises(UserError, match="holds no dataset"):
        TokenShards(tmp_path)
    write_json(tmp_path / "dataset.json", {"hello": 1})
    with pytest.raises(UserError, match="not a dataset manifest"):
        TokenShards(tmp_path)


def test_many_shards_few_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr("langwright.dataset.shards._OPEN_SHARDS", 3)
    stream = write_stream(tmp_path, [list(range(200))], shard_tokens=10).stream("train", "s")
    assert stream.slice(0, 200).tolist() == list(range(200))
    assert len(stream._shards) <= 3


def test_a_pickled_stream_opens_its_own_files(tmp_path):
    stream = write_stream(tmp_path, [list(range(30))]).stream("train", "s")
    stream.slice(0, 5)
    copy = pickle.loads(pickle.dumps(stream))
    assert isinstance(copy, TokenStream) and copy._shards == {}
    assert copy.slice(0, 31).tolist() == [*range(30), 256]


def test_reading_maps_only_what_is_asked_for(tmp_path):
    stream = write_stream(tmp_path, [list(range(200))], shard_tokens=10).stream("train", "s")
    stream.slice(42, 45)
    assert list(stream._shards) == [4]


def test_fingerprint_follows_the_ids(tmp_path):
    one = write_stream(tmp_path / "a", [[1, 2, 3]]).fingerprint
    assert write_stream(tmp_path / "b", [[1, 2, 3]]).fingerprint == one
    assert write_stream(tmp_path / "c", [[1, 2, 4]]).fingerprint != one
    assert write_stream(tmp_path / "e", [[1, 2], [3]], separator=None).fingerprint != one


def test_one_binary_file_of_samples(tmp_path, byte_tokenizer):
    path = tmp_path / "train.bin"
    count = write_token_file(path, ["ab", {"text": "c", "id": 1}], byte_tokenizer())
    ids = TokenArray.from_file(path)
    assert count == len(ids) == 5
    assert ids.slice(0, 5).tolist() == [97, 98, 256, 99, 256]
    with pytest.raises(UserError, match="sample 0"):
        write_token_file(path, [{"content": "c"}], byte_tokenizer())
    assert len(TokenArray.from_file(path)) == 5  # the old file is still whole
    path.write_bytes(b"abc")
    with pytest.raises(UserError, match="3 bytes"):
        TokenArray.from_file(path)
    with pytest.raises(UserError, match="no such token file"):
        TokenArray.from_file(tmp_path / "none.bin")


def test_a_tokenizer_that_lies_is_caught(tmp_path, byte_tokenizer):
    tokenizer = byte_tokenizer(vocab_size=100, eos=False)
    with pytest.raises(UserError, match="outside its vocabulary"):
        write_dataset(
            DatasetConfig(), {"train": {"s": lambda: ["zebra"]}}, tokenizer, tmp_path / "out"
        )


def test_a_manifest_that_does_not_add_up(tmp_path):
    write_stream(tmp_path, [list(range(40))])
    content = read_json(tmp_path / "dataset.json")
    shards = content["splits"]["train"]["s"]["shards"]
    folder = tmp_path / "train" / "s"
    for number, ids in ((1, 6), (2, 8)):  # still 41 ids in all, at other places
        shards[number]["tokens"] = ids
        (folder / f"tokens-{number:05d}.bin").write_bytes(bytes(2 * ids))
    write_json(tmp_path / "dataset.json", content)
    with pytest.raises(UserError, match=r"tokens-00001\.bin"):
        TokenShards(tmp_path).stream("train", "s")
    shards.pop()
    write_json(tmp_path / "dataset.json", content)
    with pytest.raises(UserError):
        TokenShards(tmp_path).stream("train", "s")
