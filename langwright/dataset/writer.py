"""Writing one source's token shards, in bounded memory."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from langwright.base import UserError, atomic_path
from langwright.dataset.shards import ShardInfo, SourceInfo, shard_name
from langwright.dataset.tokens import id_dtype


class ShardWriter:
    """Appends documents to a source's folder; a context manager.

    Ids go to disk as they come; a shard gets its name only when it is whole. `finish` writes the
    tables and returns the counts; leaving the block without it leaves no table, and a source
    without tables is not a source.

    Args:
        folder: `<split>/<source>`; what an interrupted writer left there is removed.
        vocab_size: an id at or above it is refused.
        separator: id to put after each document (or between them), or None.
        between: put the separator between documents only.
        shard_tokens: ids in a shard file.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        vocab_size: int,
        separator: int | None,
        between: bool = False,
        shard_tokens: int = 2**27,
    ) -> None:
        self.folder = Path(folder)
        self.vocab_size, self.separator, self.between = vocab_size, separator, between
        self.shard_tokens = shard_tokens
        self.dtype = id_dtype(vocab_size)
        self.tokens = self.documents = self.text_bytes = self.empty = 0
        self._shards: list[ShardInfo] = []
        self._stack = contextlib.ExitStack()
        self._shard_stack = contextlib.ExitStack()  # the open shard's file and its renaming
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self._filled = 0
        self._tables: dict[str, IO[bytes]] = {}

    def __enter__(self) -> ShardWriter:
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        for name in ("offsets", "bytes"):
            path = self.folder / f".{name}.raw"
            self._stack.callback(path.unlink, missing_ok=True)
            self._tables[name] = self._stack.enter_context(path.open("w+b"))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._shard_stack.__exit__(kind, error, trace)
        self._stack.close()

    def add(self, documents: Sequence[np.ndarray], text_bytes: Sequence[int]) -> None:
        """Append documents: their ids, and the UTF-8 bytes of their texts.

        Documents without ids are counted in `empty` and left out. An id outside the vocabulary
        is a `UserError`.
        """
        kept = [(ids, size) for ids, size in zip(documents, text_bytes, strict=True) if len(ids)]
        self.empty += len(documents) - len(kept)
        if not kept:
            return
        sizes = np.array([size for _, size in kept], dtype=np.uint64)
        if sizes.max() >= 2**32:
            raise UserError("a document of 4 GiB or more", where=self.folder, fix="split it")
        pieces: list[Any] = []
        starts = np.empty(len(kept), dtype="<u8")
        at = self.tokens
        mark = [] if self.separator is None else [[self.separator]]
        for number, (ids, _) in enumerate(kept):
            if self.between and self.documents + number:
                pieces += mark
                at += len(mark)
            starts[number] = at
            pieces.append(ids)
            at += len(ids)
            if not self.between:
                pieces += mark
                at += len(mark)
        self._append(np.concatenate([np.asarray(piece, dtype=np.int64) for piece in pieces]))
        self._tables["offsets"].write(starts.tobytes())
        self._tables["bytes"].write(sizes.astype("<u4").tobytes())
        self.documents += len(kept)
        self.text_bytes += int(sizes.sum())

    def finish(self, *, head_bytes: int = 0, first_bytes: int = 0) -> SourceInfo:
        """Close the last shard, write the tables, and return what was written."""
        if self._file is not None:
            self._close_shard()
        self._tables["offsets"].write(np.array([self.tokens], dtype="<u8").tobytes())
        self._write_table("offsets", "<u8", self.documents + 1)
        self._write_table("bytes", "<u4", self.documents)
        return SourceInfo(
            documents=self.documents,
            tokens=self.tokens,
            text_bytes=self.text_bytes,
            empty=self.empty,
            head_bytes=head_bytes,
            first_bytes=first_bytes,
            shard_tokens=self.shard_tokens,
            shards=self._shards,
        )

    def _append(self, ids: np.ndarray) -> None:
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.vocab_size:
            raise UserError(
                "the tokenizer gave an id outside its vocabulary",
                where=self.folder,
                found=low if low < 0 else high,
                expected=f"ids from 0 to {self.vocab_size - 1}",
                fix="check the tokenizer's files",
            )
        narrow = ids.astype(self.dtype)
        while len(narrow):
            if self._file is None:
                self._open_shard()
            assert self._file is not None
            part = narrow[: self.shard_tokens - self._filled]
            data = part.tobytes()
            self._file.write(data)
            self._hash.update(data)
            self._filled += len(part)
            self.tokens += len(part)
            narrow = narrow[len(part) :]
            if self._filled == self.shard_tokens:
                self._close_shard()

    def _open_shard(self) -> None:
        path = self.folder / shard_name(len(self._shards))
        temporary = self._shard_stack.enter_context(atomic_path(path))
        self._file = self._shard_stack.enter_context(temporary.open("wb"))
        self._hash = hashlib.sha256()
        self._filled = 0

    def _close_shard(self) -> None:
        self._shard_stack.close()
        self._shards.append(ShardInfo(tokens=self._filled, sha256=self._hash.hexdigest()))
        self._file = None

    def _write_table(self, name: str, dtype: str, length: int) -> None:
        raw = self._tables[name]
        raw.seek(0)
        with (
            atomic_path(self.folder / f"{name}.npy") as temporary,
            temporary.open("wb") as file,
        ):
            header = {"descr": dtype, "fortran_order": False, "shape": (length,)}
            np.lib.format.write_array_header_1_0(file, header)
            shutil.copyfileobj(raw, file)
