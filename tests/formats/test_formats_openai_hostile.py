"""OpenAI's files that are cut off, damaged, of another model, or made to mislead."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundle_writer import HEADER, block, entry, finished, sealed, table, varint, write_bundle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.formats.leveldb_table import read_table
from langwright.formats.openai_gpt2 import load_openai_gpt2, openai_tokenizer
from langwright.formats.tf_checkpoint import TensorFlowCheckpoint
from langwright.formats.wire import fields

TINY = Path(__file__).parent / "data" / "openai_tiny"
INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "gpt2"))


def change(folder: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Write the checkpoint again with other variables."""
    checkpoint = TensorFlowCheckpoint(folder / "model.ckpt")
    values = {name: checkpoint.read(name) for name in checkpoint.variables}
    edit(values)
    write_bundle(folder / "model.ckpt", values)


def hparams(folder: Path, **changes: object) -> None:
    path = folder / "hparams.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: v.pop("model/h1/mlp/c_fc/b"), "model/h1/mlp/c_fc/b is missing"),
        (lambda v: v.update({"model/h1/extra": np.ones(2, np.float32)}), "model/h1/extra"),
        (
            lambda v: v.update({"model/wpe": v["model/wpe"].T.copy()}),
            r"model/wpe has another shape.*\n.*\(8, 24\)\n.*\(24, 8\)",
        ),
        (
            lambda v: v.update({"model/h0/attn/c_attn/w": v["model/h0/attn/c_attn/w"][0]}),
            "c_attn/w has another shape",
        ),
        (lambda v: v.update({"model/ln_f/g": np.ones(8, np.int32)}), "not made of floating-point"),
        (lambda v: v["model/ln_f/g"].fill(np.nan), r"model/ln_f/g holds NaN.*\n.*8 of 8"),
        (lambda v: v["model/wte"].__setitem__((5, 5), np.inf), "1 of 2,096"),
    ],
)
def test_wrong_variables(folder: Path, edit: Callable, message: str) -> None:
    change(folder, edit)
    with pytest.raises(UserError, match=message) as caught:
        load_openai_gpt2(folder)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 3}, "2 layers\n.*n_layer = 3"),
        ({"n_layer": 1000}, "2 layers"),
        ({"n_layer": 10**9}, "hparams.json layers"),
        ({"n_head": 3}, "heads"),
        ({"n_vocab": 10**12}, "vocab_size"),
        ({"n_vocab": 2**24, "n_embd": 2**17}, "has another shape"),
        ({"n_embd": -8}, "width"),
        ({"n_embd": "eight"}, "n_embd"),
        ({"n_embd": None}, "n_embd"),
        ({"rotary": 1}, "unknown key 'rotary'"),
    ],
)
def test_wrong_settings(folder: Path, changes: dict[str, object], message: str) -> None:
    hparams(folder, **changes)
    with pytest.raises(UserError, match=message):
        load_openai_gpt2(folder)


def test_vocabularies_out_of_bounds(folder: Path) -> None:
    with open(folder / "encoder.json", "wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(UserError, match="far too large"):
        openai_tokenizer(folder)
    (folder / "encoder.json").unlink()
    with pytest.raises(UserError, match=r"encoder\.json: file not found"):
        openai_tokenizer(folder)


@pytest.mark.parametrize("content", ["", "[]", "{", "[" * 100_000, "{}"])
def test_settings_that_are_none(folder: Path, content: str) -> None:
    (folder / "hparams.json").write_text(content)
    with pytest.raises(UserError, match=r"hparams\.json"):
        load_openai_gpt2(folder)


def test_data_cut_off_damaged_or_missing(folder: Path) -> None:
    whole = (folder / DATA).read_bytes()
    (folder / DATA).write_bytes(whole[:-1])
    with pytest.raises(UserError, match="beyond the end of the file") as caught:
        load_openai_gpt2(folder)
    assert DATA in str(caught.value)
    (folder / DATA).write_bytes(whole[:7000] + bytes([whole[7000] ^ 4]) + whole[7001:])
    with pytest.raises(UserError, match=r"variable model/\S+ is damaged"):
        load_openai_gpt2(folder)
    (folder / DATA).unlink()
    with pytest.raises(UserError, match="data-00000-of-00001: file not found"):
        load_openai_gpt2(folder)


def test_an_index_that_is_something_else(folder: Path) -> None:
    for content in (b"", b"PK\x03\x04" * 50, b"\x80\x04" + bytes(100), bytes(48)):
        (folder / INDEX).write_bytes(content)
        with pytest.raises(UserError, match="not a whole index"):
            load_openai_gpt2(folder)
    with open(folder / INDEX, "wb") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(UserError, match="far too large"):
        load_openai_gpt2(folder)
    (folder / INDEX).unlink()
    (folder / INDEX).mkdir()
    with pytest.raises(UserError, match="not a regular file"):
        load_openai_gpt2(folder)


def test_every_cut_and_every_flipped_bit_of_the_index_is_noticed(folder: Path) -> None:
    whole = (folder / INDEX).read_bytes()
    for size in range(len(whole)):
        with pytest.raises(ValueError):
            read_table(whole[:size])
    good = read_table(whole)
    for place in range(len(whole) - 48):  # the footer has no checksum, but only points
        for bit in (1, 128):
            broken = bytearray(whole)
            broken[place] ^= bit
            with contextlib.suppress(ValueError):  # what is equal: the unread meta data
                assert read_table(bytes(broken)) == good, place


def lying_index(entries: dict[bytes, bytes]) -> bytes:
    return table({b"": HEADER, **entries})


VALUE = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (table({b"a": entry(VALUE, 0)}), "it has no header"),
        (table({b"": b"\x08\x00", b"a": entry(VALUE, 0)}), "wrong number of data files"),
        (table({b"": b"\x08\x01\x10\x01"}), "big-endian"),
        (lying_index({b"a": entry(VALUE, 0, size=2**62)}), "not those of its shape"),
        (lying_index({b"a": entry(VALUE, 0, type=7)}), "type number 7"),
        (lying_index({b"a": entry(VALUE, 0, shard=3)}), "shard 3 of 1"),
        (lying_index({b"a": entry(VALUE, 2**62)}), "beyond the end"),
        (lying_index({b"a": entry(VALUE, 0), b"b": entry(VALUE, 20)}), "b overlaps another"),
        (lying_index({b"a": entry(VALUE, 0) + b"\x3a\x00"}), "slices"),
        (lying_index({b"\xff": entry(VALUE, 0)}), "not a whole index"),
        (lying_index({b"a": b"\x07\x00"}), "unknown kind 7"),
        (lying_index({b"a": b"\x12\x7f\x00"}), "a field is cut off"),
        (lying_index({b"a": b"\xff" * 12}), "a number is too long"),
        (lying_index({b"a": entry(VALUE.reshape((1,) * 20 + (6,)), 0)}), "too many dimensions"),
        (finished(sealed(b"", 1), block([(b"a", b"\0\0")])), "compressed"),
        (finished(b"", block([(b"a", varint(2**40) + varint(9))])), "outside the file"),
    ],
)
def test_an_index_that_lies(tmp_path: Path, index: bytes, message: str) -> None:
    (tmp_path / INDEX).write_bytes(index)
    (tmp_path / DATA).write_bytes(VALUE.tobytes())
    with pytest.raises(UserError, match=message):
        TensorFlowCheckpoint(tmp_path / "model.ckpt")


def test_blocks_that_repeat_cost_no_time() -> None:
    """Many handles of one large block, empty so that no key repeats: refused at the second."""
    restarts = 25_000
    large = sealed(bytes(4 * restarts) + restarts.to_bytes(4, "little"))
    handles = [(b"k%06d" % n, varint(0) + varint(len(large) - 5)) for n in range(5000)]
    with pytest.raises(ValueError, match="overlap"):
        read_table(finished(large, block(handles)))


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_mutated_messages_with_right_checksums(data: st.DataObject) -> None:
    """Behind a right checksum anything may stand: a checkpoint or a `ValueError`, nothing else."""
    from langwright.formats.tf_checkpoint import _read_variable

    message = bytearray(entry(VALUE, 0))
    for _ in range(data.draw(st.integers(1, 4))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    try:
        variable = _read_variable(bytes(message))
    except ValueError:
        return
    assert variable.size >= 0 and len(variable.shape) <= 8


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_as_block_and_message(content: bytes) -> None:
    for attempt in (
        lambda: read_table(
            finished(sealed(content), block([(b"z", b"\0" + varint(len(content)))]))
        ),
        lambda: list(fields(content)),
    ):
        try:
            attempt()
        except ValueError:
            continue
