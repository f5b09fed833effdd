"""GPT-2's way to write any bytes as printable characters, used inside ``tokenizer.json``."""

from __future__ import annotations

from functools import cache

from langwright.base import UserError


@cache
def byte_characters() -> tuple[str, ...]:
    """The character that stands for each byte value 0..255.

    Printable Latin-1 characters stand for themselves; the other 68 bytes for U+0100 and on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in set(printable)]
    table = {value: chr(value) for value in printable}
    table.update({value: chr(256 + index) for index, value in enumerate(others)})
    return tuple(table[value] for value in range(256))


@cache
def _byte_values() -> dict[str, int]:
    return {character: value for value, character in enumerate(byte_characters())}


def to_characters(token: bytes) -> str:
    """A token's bytes as characters."""
    table = byte_characters()
    return "".join(table[value] for value in token)


def to_bytes(token: str, *, where: object = None) -> bytes:
    """The bytes a token stands for; a character outside the alphabet is a `UserError`."""
    table = _byte_values()
    try:
        return bytes([table[character] for character in token])
    except KeyError as error:
        raise UserError(
            "a token holds a character that stands for no byte",
            where=where,
            found=f"{error.args[0]!r} in {token[:60]!r}",
            expected="the byte alphabet of GPT-2",
        ) from None
