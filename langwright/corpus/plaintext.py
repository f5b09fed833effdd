"""Plain text: bytes to characters, long files to pieces."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from typing import BinaryIO

_CHUNK = 1 << 20
# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


class NotText(Exception):
    """The bytes are no text in the expected encoding. `line` counts from 1."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def encoding_of(head: bytes, default: str) -> tuple[str, int]:
    """The encoding that a byte order mark announces and the mark's length, else the default."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name, len(mark)
    return default, 0


def decode(data: bytes, default: str) -> str:
    """All of `data` as text, line ends as ``\\n``. Raises `NotText`."""
    return "".join(_characters(io.BytesIO(data), default))


def read_pieces(stream: BinaryIO, default: str, limit: int) -> Iterator[str]:
    """The text of `stream` in pieces of at most `limit` characters.

    Pieces end at a paragraph where there is one in their second half, else at a line, else at a
    space. Joined they are the whole text. Raises `NotText` where the bytes cannot be decoded.
    """
    waiting = ""
    for characters in _characters(stream, default):
        waiting += characters
        while len(waiting) > limit:
            cut = _border(waiting, limit)
            yield waiting[:cut]
            waiting = waiting[cut:]
    if waiting:
        yield waiting


def _characters(stream: BinaryIO, default: str) -> Iterator[str]:
    """Decoded chunks, without byte order mark, line ends as ``\\n``."""
    chunk = stream.read(_CHUNK)
    encoding, mark = encoding_of(chunk[:4], default)
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    chunk = chunk[mark:]
    line = 1
    while True:
        last = not chunk
        try:
            raw = decoder.decode(chunk, last)
        except UnicodeDecodeError as error:
            data = bytes(error.object)
            line += data[: error.start].count(b"\n")
            byte = f"byte 0x{data[error.start]:02x}" if error.start < len(data) else "the end"
            raise NotText(f"{byte} is not {encoding}", line) from None
        except UnicodeError as error:  # other codecs, such as idna, raise the plain form
            raise NotText(f"not {encoding}: {error}", line) from None
        text = newlines.decode(raw, last)
        if "\0" in text:
            line += text[: text.index("\0")].count("\n")
            raise NotText("a zero character: this looks like a binary file", line)
        line += text.count("\n")
        if text:
            yield text
        if last:
            return
        chunk = stream.read(_CHUNK)


def _border(text: str, limit: int) -> int:
    """Where to cut `text` so that at most `limit` characters come before the cut."""
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, limit // 2, limit)
        if at >= 0:
            return at + len(mark)
    return limit
