"""The sorted table that TensorFlow uses as an index: LevelDB's, uncompressed.

A table is blocks, an index of blocks, and a footer of 48 bytes at the end (LevelDB,
doc/table_format.md). In a block each key is stored as what differs from the key before.
"""

from __future__ import annotations

from langwright.formats.crc32c import crc32c, masked
from langwright.formats.wire import varint

FOOTER_BYTES = 48
MAGIC = 0xDB4775248B80FB57
TRAILER_BYTES = 5  # compression, checksum


def read_table(data: bytes) -> dict[bytes, bytes]:
    """Keys and values of a whole table.

    Raises:
        ValueError: it is none, or is damaged.
    """
    if len(data) < FOOTER_BYTES or int.from_bytes(data[-8:], "little") != MAGIC:
        raise ValueError("its end is not that of a table")
    footer = data[-FOOTER_BYTES:-8]
    _, at = _handle(footer, 0)
    index, _ = _handle(footer, at)
    table: dict[bytes, bytes] = {}
    read = 0
    last: bytes | None = None
    for _, handle in _entries(_block(data, *index)):
        place, _ = _handle(handle, 0)
        read += place[1]
        if read > len(data):
            raise ValueError("its blocks overlap")
        for key, value in _entries(_block(data, *place)):
            if last is not None and key <= last:
                raise ValueError("its keys are not in order")
            table[key], last = value, key
    return table


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """(offset, size) of a block, and the place after it."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _block(data: bytes, offset: int, size: int) -> bytes:
    end = offset + size
    if end + TRAILER_BYTES > len(data) - FOOTER_BYTES:
        raise ValueError("a block lies outside the file")
    if data[end] != 0:
        raise ValueError("it is compressed, which TensorFlow's own files are not")
    stored = int.from_bytes(data[end + 1 : end + TRAILER_BYTES], "little")
    if masked(crc32c(data[offset : end + 1])) != stored:
        raise ValueError("a block is damaged (its checksum differs)")
    return data[offset:end]


def _entries(block: bytes) -> list[tuple[bytes, bytes]]:
    """Keys and values; the restart points at the end, which are for searching, are left out."""
    if len(block) < 4:
        raise ValueError("a block is too short")
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    if end < 0:
        raise ValueError("a block has too many restart points")
    block = block[:end]
    entries: list[tuple[bytes, bytes]] = []
    key, at = b"", 0
    while at < end:
        shared, at = varint(block, at)
        fresh, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or at + fresh + size > end:
            raise ValueError("an entry is cut off")
        key = key[:shared] + block[at : at + fresh]
        at += fresh + size
        entries.append((key, block[at - size : at]))
    return entries
