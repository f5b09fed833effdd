"""A long line of token ids that can be read anywhere: in memory, or one file on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from langwright.base import UserError, atomic_path

_ENDS = 2**19  # ids at each end of a file that stand for the whole in its fingerprint


class Tokens(Protocol):
    """What rows need of the token ids they are cut from."""

    fingerprint: str

    def __len__(self) -> int: ...

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Ids start to stop-1, int64."""
        ...

    def gather(self, positions: np.ndarray) -> np.ndarray:
        """The ids at `positions` (any shape), int64."""
        ...


class TokenArray:
    """Token ids in one numpy array (or memory map). Ids come out widened to int64."""

    def __init__(self, ids: Any, *, fingerprint: str | None = None) -> None:
        self.ids = np.asarray(ids)
        if self.ids.ndim != 1 or (self.ids.size and self.ids.dtype.kind not in "iu"):
            raise ValueError("token ids must be a one-dimensional array of integers")
        self.fingerprint = fingerprint or self._hash()

    def _hash(self) -> str:
        data = np.ascontiguousarray(self.ids, dtype="<i8")
        return hashlib.sha256(data.tobytes()).hexdigest()

    @classmethod
    def from_file(cls, path: str | Path, dtype: str = "uint16") -> TokenArray:
        """Memory-map a file of nothing but little-endian ids, such as nanoGPT's ``train.bin``."""
        path = Path(path)
        kind = np.dtype(dtype).newbyteorder("<")
        if not path.is_file():
            raise UserError("no such token file", where=path)
        size = path.stat().st_size
        if size == 0 or size % kind.itemsize:
            raise UserError(
                "this is not a whole token file",
                where=path,
                found=f"{size} bytes",
                expected=f"a positive multiple of {kind.itemsize} bytes ({dtype} ids)",
            )
        ids = np.memmap(path, dtype=kind, mode="r")
        ends = ids[:_ENDS].tobytes() + ids[-_ENDS:].tobytes()  # hashing all of it may take minutes
        stamp = f"{size} {kind.str} ".encode()
        return cls(ids, fingerprint=hashlib.sha256(stamp + ends).hexdigest())

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, stop: int) -> np.ndarray:
        return self.ids[start:stop].astype(np.int64)

    def gather(self, positions: np.ndarray) -> np.ndarray:
        return self.ids[positions].astype(np.int64)


def as_tokens(tokens: Any) -> Tokens:
    """`tokens` itself if it can be read as `Tokens`; otherwise wrapped in a `TokenArray`."""
    return tokens if hasattr(tokens, "gather") else TokenArray(tokens)


def id_dtype(vocab_size: int) -> np.dtype:
    """The smallest of uint16 and uint32 (little endian) that holds ids below `vocab_size`.

    16 bits hold 65,536 ids; a vocabulary of 128,000 needs 32.
    """
    if not 1 <= vocab_size <= 2**32:
        raise ValueError(f"vocab_size must be between 1 and 2**32, not {vocab_size}")
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def write_token_file(
    path: str | Path, samples: Iterable[str | Mapping[str, Any]], tokenizer: Any
) -> int:
    """Tokenise samples, end each with <|endoftext|>, and write all ids to one binary file.

    Args:
        path: the file; ids are uint16 or uint32 by the size of the vocabulary (`id_dtype`).
        samples: texts, or records with a ``text`` field.
        tokenizer: has `encode`, `vocab_size` and `eos_id`.

    Returns:
        the number of ids written.
    """
    dtype = id_dtype(tokenizer.vocab_size)
    ending = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    count = 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for number, sample in enumerate(samples):
            text = sample if isinstance(sample, str) else sample.get("text")
            if not isinstance(text, str):
                raise UserError(
                    "a record without a text", where=f"sample {number}", expected="a field 'text'"
                )
            ids = np.array([*tokenizer.encode(text), *ending], dtype=dtype)
            file.write(ids.tobytes())
            count += len(ids)
    return count
