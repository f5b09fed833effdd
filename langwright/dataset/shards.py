"""Token shards on disk: how they are laid out, and how they are read.

A dataset folder holds::

    dataset.json                          what is in it (`DatasetManifest`)
    <split>/<source>/tokens-00000.bin     ids, uint16 or uint32 little endian, nothing else
    <split>/<source>/offsets.npy          uint64: where each document begins, and the end
    <split>/<source>/bytes.npy            uint32: UTF-8 bytes of each document's text

All shards of a source but the last hold `shard_tokens` ids; documents may cross from one shard
into the next. Shards are memory-mapped when first touched, in each process by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from langwright.base import Config, UserError, hash_json, nearest, read_json, sha256_file
from langwright.dataset.config import DatasetConfig

MANIFEST = "dataset.json"
_OPEN_SHARDS = 256  # mapped at once by one stream; each costs a file descriptor


class ShardInfo(Config):
    """One file of token ids."""

    tokens: int = Field(description="ids in the file", ge=1)
    sha256: str = Field(description="SHA-256 of the file")


class SourceInfo(Config):
    """All of one source in one split."""

    documents: int = Field(description="documents", ge=0)
    tokens: int = Field(description="ids, separators included", ge=0)
    text_bytes: int = Field(description="UTF-8 bytes of the documents' texts", ge=0)
    empty: int = Field(default=0, description="documents left out because they held no token", ge=0)
    head_bytes: int = Field(
        default=0,
        description="bytes of the documents' first tokens, where no head predicts them",
    )
    first_bytes: int = Field(default=0, description="bytes of the very first token, likewise")
    shard_tokens: int = Field(description="ids in every shard but the last", ge=1)
    shards: list[ShardInfo] = Field(description="the token files, in order")


class DatasetManifest(Config):
    """What a dataset folder holds: the content of dataset.json."""

    format: str = Field(default="langwright-dataset", description="always langwright-dataset")
    version: int = Field(default=1, description="version of this layout")
    vocab_size: int = Field(description="every id is below this", ge=1)
    dtype: str = Field(description="type of the ids: <u2 or <u4", pattern="^<u[24]$")
    separator: int | None = Field(description="id that stands between documents; null: none")
    head: int | None = Field(
        default=None, description="id shown before a document's first token; null: none"
    )
    config: DatasetConfig = Field(description="the config it was built with")
    splits: dict[str, dict[str, SourceInfo]] = Field(description="split -> source -> content")


def shard_name(number: int) -> str:
    """File name of a source's shard."""
    return f"tokens-{number:05d}.bin"


class TokenStream:
    """The ids of one source in one split, as one long line read from its shards.

    Attributes:
        name, split: what it holds.
        offsets: uint64 (documents + 1,), where each document begins, and the end.
        document_bytes: uint32 (documents,), UTF-8 bytes of each document's text.
        separator: id after each document, or None.
        head: id to show before a document's first token, or None.
        info: counts from the manifest.
    """

    def __init__(self, folder: Path, split: str, name: str, manifest: DatasetManifest) -> None:
        self.folder, self.split, self.name = folder / split / name, split, name
        self.info = manifest.splits[split][name]
        self.separator, self.head = manifest.separator, manifest.head
        self.vocab_size = manifest.vocab_size
        self.dtype = np.dtype(manifest.dtype)
        self.fingerprint = hash_json(
            [self.info.model_dump(), manifest.dtype, manifest.separator, manifest.head]
        )
        self._shards: dict[int, np.ndarray] = {}
        self._check_sizes()
        self.offsets = self._table("offsets.npy", "uint64", self.info.documents + 1)
        self.document_bytes = self._table("bytes.npy", "uint32", self.info.documents)
        if int(self.offsets[0]) != 0 or int(self.offsets[-1]) != self.info.tokens:
            raise self._broken("offsets.npy", int(self.offsets[-1]), f"{self.info.tokens} ids")

    def __len__(self) -> int:
        return self.info.tokens

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps, which belong to one process: another one opens its own."""
        return {**self.__dict__, "_shards": {}}

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Ids start to stop-1, int64 (stop - start,)."""
        size = self.info.shard_tokens
        first, last = start // size, max(start, stop - 1) // size
        if first == last:
            return self._widen(self._shard(first)[start - first * size : stop - first * size])
        return self.gather(np.arange(start, stop))

    def gather(self, positions: np.ndarray) -> np.ndarray:
        """The ids at `positions` (any shape), int64."""
        if positions.size == 0:
            return np.zeros(positions.shape, dtype=np.int64)
        size = self.info.shard_tokens
        first, last = int(positions.min()) // size, int(positions.max()) // size
        if first == last:
            return self._widen(self._shard(first)[positions - first * size])
        shards, inside = np.divmod(positions, size)
        result = np.empty(positions.shape, dtype=np.int64)
        for number in np.unique(shards):
            here = shards == number
            result[here] = self._widen(self._shard(int(number))[inside[here]])
        return result

    def document(self, number: int) -> np.ndarray:
        """Ids of one document, its separator included, int64."""
        return self.slice(int(self.offsets[number]), int(self.offsets[number + 1]))

    def verify(self) -> None:
        """Read everything and compare it with the manifest; a difference is a `UserError`."""
        steps = np.diff(self.offsets.astype(np.int64))
        if len(steps) and steps.min() < 0:
            raise self._broken("offsets.npy", "a step backwards", "rising offsets")
        for number, shard in enumerate(self.info.shards):
            path = self.folder / shard_name(number)
            if (found := sha256_file(path)) != shard.sha256:
                raise self._broken(path.name, f"SHA-256 {found}", shard.sha256)
            self._widen(self._shard(number))

    def _shard(self, number: int) -> np.ndarray:
        shard = self._shards.get(number)
        if shard is None:
            mapped = np.memmap(self.folder / shard_name(number), dtype=self.dtype, mode="r")
            shard = np.asarray(mapped)  # a plain view: slicing a memmap object is slow
            while len(self._shards) >= _OPEN_SHARDS:
                self._shards.pop(next(iter(self._shards)), None)
            self._shards[number] = shard
        return shard

    def _widen(self, ids: np.ndarray) -> np.ndarray:
        if ids.size and int(ids.max()) >= self.vocab_size:
            raise self._broken("token ids", int(ids.max()), f"ids below {self.vocab_size}")
        return ids.astype(np.int64)

    def _check_sizes(self) -> None:
        total = 0
        for number, shard in enumerate(self.info.shards):
            path = self.folder / shard_name(number)
            expected = shard.tokens * self.dtype.itemsize
            found = path.stat().st_size if path.is_file() else None
            if found != expected:
                what = "no such file" if found is None else f"{found} bytes"
                raise self._broken(path.name, what, f"{expected} bytes")
            total += shard.tokens
            last = number == len(self.info.shards) - 1
            if not last and shard.tokens != self.info.shard_tokens:
                raise self._broken(path.name, shard.tokens, f"{self.info.shard_tokens} ids")
        if total != self.info.tokens:
            raise self._broken(MANIFEST, f"{total} ids in shards", f"{self.info.tokens}")

    def _table(self, file: str, dtype: str, length: int) -> np.ndarray:
        path = self.folder / file
        if not path.is_file():
            raise self._broken(file, "no such file", f"{length} numbers of type {dtype}")
        try:
            table = np.load(path, mmap_mode="r" if length else None, allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise self._broken(file, error, "a whole .npy file") from None
        if table.dtype != np.dtype(dtype) or table.shape != (length,):
            raise self._broken(file, f"{table.shape} {table.dtype}", f"({length},) {dtype}")
        return np.asarray(table)

    def _broken(self, file: str, found: object, expected: object) -> UserError:
        return UserError(
            "this part of the dataset is damaged",
            where=self.folder / file,
            found=found,
            expected=expected,
            fix="build the dataset again",
        )


class TokenShards:
    """A dataset folder, opened.

    Attributes:
        folder: where it lies.
        meta: its manifest (`DatasetManifest`).
        splits: names of its splits.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise UserError(
                "this folder holds no dataset", where=path, fix="run the dataset stage first"
            )
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != "langwright-dataset":
            raise UserError("this is not a dataset manifest", where=path)
        self.meta = DatasetManifest.parse(content, where=path)
        self.splits = list(self.meta.splits)

    @property
    def fingerprint(self) -> str:
        """Hash of the ids of every split and source."""
        return hash_json(
            {s: {n: self.stream(s, n).fingerprint for n in self.sources(s)} for s in self.splits}
        )

    def sources(self, split: str) -> list[str]:
        """Names of the sources of a split; an unknown split is a `UserError`."""
        if split not in self.meta.splits:
            raise self._unknown("split", split, self.splits)
        return list(self.meta.splits[split])

    def stream(self, split: str, source: str) -> TokenStream:
        """The ids of one source of a split."""
        names = self.sources(split)
        if source not in names:
            raise self._unknown(f"source in split {split!r}", source, names)
        return TokenStream(self.folder, split, source, self.meta)

    def verify(self) -> None:
        """Compare every file with its hash; the first that differs is a `UserError`."""
        for split in self.splits:
            for source in self.sources(split):
                self.stream(split, source).verify()

    def _unknown(self, kind: str, name: str, names: list[str]) -> UserError:
        guess = nearest(name, names)
        return UserError(
            f"the dataset has no such {kind}",
            where=self.folder,
            found=name,
            expected="one of " + (", ".join(names) or "(none)"),
            fix=f"did you mean {guess!r}?" if guess else None,
        )
