"""Protocol-buffer messages, read without their schema: numbers and bytes by field number."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(data: bytes, at: int) -> tuple[int, int]:
    """An unsigned number of seven bits a byte, low bits first: (value, place after it).

    Raises:
        ValueError: the data ends inside it, or it has more than 64 bits.
    """
    value = 0
    for place in range(10):
        if at + place >= len(data):
            raise ValueError("a number is cut off")
        byte = data[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            if value >> 64:
                break
            return value, at + place + 1
    raise ValueError("a number is too long")


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in the order of the message; a submessage or string comes as bytes.

    Raises:
        ValueError: it is no such message.
    """
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        kind = key & 7
        if kind == VARINT:
            value, at = varint(message, at)
            yield key >> 3, value
            continue
        if kind == BYTES:
            size, at = varint(message, at)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"unknown kind {kind} of field")
        if at + size > len(message):
            raise ValueError("a field is cut off")
        part = message[at : at + size]
        at += size
        yield key >> 3, part if kind == BYTES else int.from_bytes(part, "little")
