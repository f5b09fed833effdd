"""Opening files, compressed or not, so that no file can fill the memory or the disk.

A compressed file is read as a stream. It may grow by at most `max_expansion` times and to at most
`max_expanded_bytes`: beyond that it is a decompression bomb, or something we should not train on.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from langwright.base import UserError
from langwright.corpus.config import CorpusConfig

_FEED = 4096  # compressed bytes given to zstd at a time: at most about 130 MB come out
_ALWAYS_ALLOWED = 16 * 2**20  # expanded bytes below which the factor is not looked at
COMPRESSED = (".gz", ".zst")


class BrokenCompression(Exception):
    """The compressed data is damaged or cut off."""


@contextmanager
def open_bytes(path: Path, config: CorpusConfig) -> Iterator[BinaryIO]:
    """Open `path` for reading its expanded bytes.

    Raises:
        BrokenCompression: from a read, when the compressed data is damaged.
        UserError: from a read, when it expands beyond the limits; or zstandard is missing.
        OSError: as `open`.
    """
    with path.open("rb") as raw:
        suffix = path.suffix.lower()
        if suffix not in COMPRESSED:
            yield cast(BinaryIO, raw)
            return
        inner = gzip.GzipFile(fileobj=raw) if suffix == ".gz" else _ZstdReader(raw, path)
        bounded = _Bounded(inner, path, config)
        with io.BufferedReader(bounded, buffer_size=1 << 16) as reader:
            yield cast(BinaryIO, reader)


class _Bounded(io.RawIOBase):
    """Reads from `inner` and refuses to go beyond the limits."""

    def __init__(self, inner: Any, path: Path, config: CorpusConfig) -> None:
        self._inner = inner
        self._path = path
        self._most = config.max_expanded_bytes
        self._factor = config.max_expansion
        self._size = max(path.stat().st_size, 1)
        self._read = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise BrokenCompression(str(error)) from None
        buffer[: len(data)] = data
        self._read += len(data)
        grown = self._read > _ALWAYS_ALLOWED and self._read > self._factor * self._size
        if self._read > self._most or grown:
            raise UserError(
                "compressed file grows beyond the limit",
                where=self._path,
                found=f"{self._size} bytes became more than {self._read}",
                expected=f"at most {self._most} bytes and {self._factor} times its size",
                fix="leave it out, or raise corpus.max_expanded_bytes / corpus.max_expansion",
            )
        return len(data)


class _ZstdReader:
    """Frames of zstd one after another; a cut-off frame is an error (the library's own reader ends
    silently there)."""

    def __init__(self, raw: IO[bytes], path: Path) -> None:
        try:
            import zstandard
        except ImportError:
            raise UserError(
                "reading .zst needs a library that is not installed",
                where=path,
                fix="pip install zstandard",
            ) from None
        self._raw = raw
        self._error = zstandard.ZstdError
        # A window of 128 MB is what `zstd` itself reads without being asked for more.
        self._make = zstandard.ZstdDecompressor(max_window_size=2**27).decompressobj
        self._frame = self._make()
        self._fresh = True  # no byte of the current frame seen yet
        self._waiting = b""  # compressed bytes not yet given to the frame
        self._ready = memoryview(b"")  # expanded bytes not yet read

    def read(self, size: int) -> bytes:
        while not len(self._ready):
            data = self._waiting or self._raw.read(_FEED)
            self._waiting = b""
            if not data:
                if self._fresh:
                    return b""
                raise BrokenCompression("the file ends within a zstd frame")
            try:
                self._ready = memoryview(self._frame.decompress(data))
            except self._error as error:
                raise BrokenCompression(str(error)) from None
            self._fresh = False
            if self._frame.eof:
                self._waiting = self._frame.unused_data
                self._frame = self._make()
                self._fresh = True
        out = bytes(self._ready[:size])
        self._ready = self._ready[size:]
        return out
