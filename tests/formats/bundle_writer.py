"""Writes TensorFlow checkpoints for tests: whole ones, and ones that lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from langwright.formats.crc32c import crc32c, masked
from langwright.formats.leveldb_table import MAGIC

HEADER = b"\x08\x01\x1a\x02\x08\x01"  # one shard, little-endian, version 1
TYPE_NUMBERS = {"float32": 1, "float64": 2, "int32": 3, "int64": 9, "float16": 19}


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Entries with shared prefixes, one restart point, and the trailer."""
    out, before = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(before)) and key[shared] == before[shared]:
            shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        before = key
    return sealed(out + bytes(4) + (1).to_bytes(4, "little"))


def sealed(content: bytes, compression: int = 0) -> bytes:
    """A block with its compression byte and checksum."""
    content += bytes([compression])
    return content + masked(crc32c(content)).to_bytes(4, "little")


def table(entries: dict[bytes, bytes], per_block: int = 10**9) -> bytes:
    """A whole table, `per_block` entries to a block."""
    ordered = sorted(entries.items())
    out, index = b"", []
    for start in range(0, len(ordered), per_block):
        part = ordered[start : start + per_block]
        written = block(part)
        index.append((part[-1][0], varint(len(out)) + varint(len(written) - 5)))
        out += written
    return finished(out, block(index))


def finished(blocks: bytes, index: bytes) -> bytes:
    """Blocks, an empty block of meta data, the index of blocks and the footer."""
    meta = block([])
    handles = varint(len(blocks)) + varint(len(meta) - 5)
    handles += varint(len(blocks) + len(meta)) + varint(len(index) - 5)
    return blocks + meta + index + handles.ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def entry(
    array: np.ndarray, offset: int, *, shard: int = 0, checksum: int | None = None, **changes: int
) -> bytes:
    """The message that tells where `array` lies; `changes` (type, size) make it lie."""
    shape = b""
    for size in array.shape:
        inner = b"\x08" + varint(size)
        shape += b"\x12" + varint(len(inner)) + inner
    crc = masked(crc32c(array.tobytes())) if checksum is None else checksum
    message = b"\x08" + varint(changes.get("type", TYPE_NUMBERS[str(array.dtype)]))
    message += b"\x12" + varint(len(shape)) + shape
    message += b"\x18" + varint(shard) if shard else b""
    message += b"\x20" + varint(offset) + b"\x28" + varint(changes.get("size", array.nbytes))
    return message + b"\x35" + crc.to_bytes(4, "little")


def write_bundle(
    prefix: Path, values: dict[str, np.ndarray], *, per_block: int = 10**9, shards: int = 1
) -> None:
    """A checkpoint of `values`, dealt out over `shards` data files."""
    data = [b""] * shards
    entries = {b"": HEADER if shards == 1 else b"\x08" + varint(shards) + b"\x1a\x02\x08\x01"}
    for number, (name, array) in enumerate(sorted(values.items())):
        shard = number % shards
        entries[name.encode()] = entry(array, len(data[shard]), shard=shard)
        data[shard] += array.tobytes()
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries, per_block))
    for number, content in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{number:05d}-of-{shards:05d}").write_bytes(content)
