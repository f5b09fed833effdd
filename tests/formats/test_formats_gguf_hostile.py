"""GGUF files from strangers: whatever is broken in them is a `UserError`, soon and in little
memory."""

from __future__ import annotations

import os
import resource
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from gguf_models import random_lm

from langwright.base import UserError
from langwright.formats.gguf import GgufFile, load_gguf, save_gguf

U32, U64, STRING, ARRAY = 4, 10, 8, 9
ROOT = Path(__file__).resolve().parents[2]


def text(value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str, kind: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + raw


def tensor(name: str, dims: list[int], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return text(name) + sizes + struct.pack("<IQ", kind, offset)


def file_of(entries: list[bytes], tensors: list[bytes] = (), data: bytes = b"", **header) -> bytes:
    start = struct.pack(
        "<4sIQQ",
        header.get("magic", b"GGUF"),
        header.get("version", 3),
        header.get("tensor_count", len(tensors)),
        header.get("entry_count", len(entries)),
    )
    raw = start + b"".join(entries) + b"".join(tensors)
    return raw + b"\0" * (-len(raw) % 32) + data


ONE = entry("a", U32, struct.pack("<I", 1))
HUGE = 1 << 60
BROKEN = {
    "empty": b"",
    "magic": file_of([], magic=b"PK\3\4"),
    "pickle": b"\x80\x04" + b"x" * 100,
    "version": file_of([], version=1),
    "big-endian": file_of([], version=0x03000000),
    "header": b"GGUF\3\0\0",
    "tensor count": file_of([], tensor_count=HUGE),
    "entry count": file_of([], entry_count=HUGE),
    "more entries than there are": file_of([ONE], entry_count=60_000),
    "key length": file_of([struct.pack("<Q", HUGE)], entry_count=1),
    "key of a gigabyte": file_of([struct.pack("<Q", 1 << 30) + b"k" * 99], entry_count=1),
    "string length": file_of([entry("a", STRING, struct.pack("<Q", (1 << 64) - 1))]),
    "array length": file_of([entry("a", ARRAY, struct.pack("<IQ", U32, (1 << 62) + 1))]),
    "array of strings": file_of([entry("a", ARRAY, struct.pack("<IQ", STRING, HUGE))]),
    "array in an array": file_of([entry("a", ARRAY, struct.pack("<IQ", ARRAY, 1))]),
    "unknown type": file_of([entry("a", 99, b"\0" * 8)]),
    "no yes or no": file_of([entry("a", 7, b"\2")]),
    "not UTF-8": file_of([entry("a", STRING, text(b"\xff\xfe"))]),
    "key twice": file_of([ONE, ONE]),
    "alignment 0": file_of([entry("general.alignment", U32, struct.pack("<I", 0))]),
    "alignment 33": file_of([entry("general.alignment", U32, struct.pack("<I", 33))]),
    "alignment text": file_of([entry("general.alignment", STRING, text("x"))]),
    "no dimensions": file_of([], [tensor("t", [])]),
    "five dimensions": file_of([], [tensor("t", [1] * 5)]),
    "a size of 0": file_of([], [tensor("t", [0, 4])]),
    "a huge size": file_of([], [tensor("t", [HUGE, 16])]),
    "sizes that overflow": file_of([], [tensor("t", [1 << 32, 1 << 32])]),
    "dimension count": file_of([], [text("t") + struct.pack("<I", 1 << 31)]),
    "beyond the end": file_of([], [tensor("t", [64])], b"\0" * 255),
    "offset": file_of([], [tensor("t", [8], offset=HUGE * 15)], b"\0" * 32),
    "not aligned": file_of([], [tensor("t", [8], offset=4)], b"\0" * 64),
    "overlap": file_of([], [tensor("t", [16]), tensor("u", [8], offset=32)], b"\0" * 64),
    "twice": file_of([], [tensor("t", [8]), tensor("t", [8], offset=32)], b"\0" * 64),
    "unknown kind": file_of([], [tensor("t", [8], kind=777)], b"\0" * 64),
    "kind not read": file_of([], [tensor("t", [256], kind=10)], b"\0" * 512),
    "half a block": file_of([], [tensor("t", [33], kind=8)], b"\0" * 512),
    "no architecture": file_of([ONE]),
}


# What is told of some of them; the others end too early, or are told as a wrong length.
TOLD = {
    "pickle": "not a GGUF file",
    "big-endian": "big-endian",
    "array of strings": "longer than the file",
    "array length": "longer than the file",
    "key twice": "appears twice",
    "alignment 33": "alignment",
    "a huge size": "impossible size",
    "beyond the end": "beyond the end",
    "not aligned": "not aligned",
    "overlap": "overlap",
    "twice": "appears twice",
    "kind not read": "Q2_K",
    "half a block": "whole blocks",
    "not UTF-8": "not UTF-8",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files(name, tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(BROKEN[name])
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"bad\.gguf") as caught:
            load_gguf(path)
        assert TOLD.get(name, "") in str(caught.value)
        assert tracemalloc.get_traced_memory()[1] < 1 << 21
    finally:
        tracemalloc.stop()


def test_things_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "folder.gguf").mkdir()
    for name in ("pipe.gguf", "folder.gguf", "missing.gguf"):
        with pytest.raises(UserError, match=name):
            GgufFile(tmp_path / name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    save_gguf(random_lm(layers=1, width=32, heads=2, hidden_width=32), path, "q8_0")
    return path.read_bytes()


def read(data: bytes, path: Path) -> bool:
    """Whether `data` loads; anything else than a `UserError` is raised."""
    path.write_bytes(data)
    try:
        load_gguf(path)
    except UserError as error:
        assert path.name in str(error), error
        return False
    return True


def test_cut_anywhere(whole, tmp_path):
    """A file that ends early is refused, wherever it ends."""
    sizes = {*range(200), *range(0, len(whole), 997), len(whole) - 1}
    assert read(whole, tmp_path / "m.gguf")
    for size in sorted(sizes - {len(whole)}):
        # The last padding is the only part that nothing needs.
        assert not read(whole[:size], tmp_path / "m.gguf") or size >= len(whole) - 31, size


def mutated(whole: bytes, generator: np.random.Generator) -> bytes:
    """A file with one to four changes: bytes, extreme numbers, stretches cut, doubled or moved."""
    data = bytearray(whole)
    tables = min(len(data), 12_000)
    for _ in range(generator.integers(1, 5)):
        end = tables if generator.random() < 0.8 else len(data)
        at, kind = int(generator.integers(end)), generator.integers(5)
        size = int(generator.integers(1, 64))
        if kind == 0:
            data[at] = int(generator.integers(256))
        elif kind == 1:
            extremes = (0, 1, 0xFF, 0xFFFFFFFF, 1 << 31, 1 << 62, (1 << 64) - 1, 1 << 40)
            data[at : at + 8] = struct.pack("<Q", extremes[generator.integers(len(extremes))])
        elif kind == 2:
            del data[at : at + size]
        elif kind == 3:
            data[at:at] = data[at : at + size]
        else:
            data[at : at + size] = generator.bytes(size)
    return bytes(data)


def test_random_changes(whole, tmp_path):
    generator = np.random.default_rng(0)
    loaded = sum(read(mutated(whole, generator), tmp_path / "m.gguf") for _ in range(200))
    assert loaded < 140  # most changes are seen


BOMBS = {
    # A vocabulary whose every token is long, in a file of a few megabytes.
    "tokens": [
        entry("tokenizer.ggml.model", STRING, text("llama")),
        entry(
            "tokenizer.ggml.tokens",
            ARRAY,
            struct.pack("<IQ", STRING, 3) + 3 * text("a" * 1_000_000),
        ),
    ],
    "empty strings": [entry("x", ARRAY, struct.pack("<IQ", STRING, 1_000_000) + b"\0" * 8_000_000)],
}
CHILD = """
import resource, sys, time
from langwright.base import UserError
from langwright.formats.gguf import load_gguf
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_gguf(sys.argv[1])
except UserError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("name", BOMBS)
def test_bounded_in_a_process_of_its_own(name, tmp_path):
    architecture = entry("general.architecture", STRING, text("llama"))
    path = tmp_path / "bomb.gguf"
    path.write_bytes(file_of([architecture, *BOMBS[name]]))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (30, 30)),
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200_000  # kilobytes
    assert time.monotonic() - started < 40
