"""Rows cut from one line of tokens, whatever documents it holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from langwright.base import UserError, hash_json, seed_for
from langwright.dataset.batch import IGNORE, RowArrays
from langwright.dataset.order import epoch_order, hash64
from langwright.dataset.rows import Rows
from langwright.dataset.tokens import Tokens, as_tokens


class WindowRows(Rows):
    """Windows of T tokens that begin every `stride` tokens; targets are one token further.

    Window k holds the inputs k*stride to k*stride+T-1. There are ceil((n - T) / stride) of them
    in n tokens, so that each has all its T targets. `stride` T is nanoGPT-like streaming without
    overlap; a smaller one shows most tokens several times a pass (and overfits sooner).

    Args:
        tokens: ids: an array, or anything that reads like `Tokens`.
        sequence_length: T (the book's `max_length`).
        stride: tokens between window starts; None: T.
        seed: decides the order of each pass.
        shuffle: shuffle each pass; otherwise windows come in order.
        drop_last: leave out the targets after the last whole window; False adds one more window,
            its missing targets -100.
    """

    def __init__(
        self,
        tokens: Any,
        sequence_length: int,
        *,
        stride: int | None = None,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
    ) -> None:
        self.tokens: Tokens = as_tokens(tokens)
        self.sequence_length = sequence_length
        self.stride = stride or sequence_length
        self.seed, self.shuffle = seed, shuffle
        count = len(self.tokens)
        whole = max(0, -(-(count - sequence_length) // self.stride))
        covered = (whole - 1) * self.stride + sequence_length if whole else 0  # targets 1..covered
        extra = not drop_last and count - 1 > covered
        self.epoch_rows: int = whole + extra
        if self.epoch_rows == 0:
            raise too_short(count, sequence_length)
        self.fingerprint = hash_json(
            ["windows", self.tokens.fingerprint, sequence_length, self.stride, seed, shuffle]
            + [drop_last]
        )

    def gather(self, indices: np.ndarray) -> RowArrays:
        starts = self.stride * epoch_order(
            indices, self.epoch_rows, self.seed, shuffle=self.shuffle
        )
        return cut_windows(self.tokens, starts, self.sequence_length)


class RandomChunkRows(Rows):
    """Windows of T tokens at random offsets, drawn with replacement.

    Row i begins at an offset in [0, n - T - 1] decided by (seed, i): the last target is always
    in range. A pass is n // T rows by count; it does not visit every token.

    Args:
        tokens: ids: an array, or anything that reads like `Tokens`.
        sequence_length: T.
        seed: decides the offsets.
        min_length: if given, a row counts only its first L targets, L drawn between this and T,
            so that the model is trained on inputs of different lengths.
    """

    def __init__(
        self, tokens: Any, sequence_length: int, *, seed: int = 0, min_length: int | None = None
    ) -> None:
        self.tokens: Tokens = as_tokens(tokens)
        self.sequence_length = sequence_length
        self.min_length = min_length
        if min_length is not None and not 1 <= min_length <= sequence_length:
            raise ValueError(f"min_length must be between 1 and {sequence_length}")
        count = len(self.tokens)
        if count <= sequence_length:
            raise too_short(count, sequence_length)
        self._choices = count - sequence_length  # offsets 0 .. n-T-1
        self.epoch_rows: int = count // sequence_length
        self._start_key = seed_for(seed, "chunk start")
        self._length_key = seed_for(seed, "chunk length")
        self.fingerprint = hash_json(
            ["random", self.tokens.fingerprint, sequence_length, seed, min_length]
        )

    def starts(self, indices: np.ndarray) -> np.ndarray:
        """Offset of each row's first input, int64 (N,)."""
        return (hash64(self._start_key, indices) % np.uint64(self._choices)).astype(np.int64)

    def gather(self, indices: np.ndarray) -> RowArrays:
        if len(indices) and int(indices.min()) < 0:
            raise IndexError(f"rows are numbered from 0, not {int(indices.min())}")
        arrays = cut_windows(self.tokens, self.starts(indices), self.sequence_length)
        if self.min_length is not None:
            spread = np.uint64(self.sequence_length - self.min_length + 1)
            lengths = (hash64(self._length_key, indices) % spread).astype(np.int64)
            lengths += self.min_length
            past = np.arange(self.sequence_length) >= lengths[:, None]  # (N, T)
            arrays.targets[past] = IGNORE
        return arrays


def cut_windows(tokens: Tokens, starts: np.ndarray, length: int) -> RowArrays:
    """Inputs and targets (N, length) of windows that begin at `starts`.

    Past the end of `tokens`, inputs are 0 and targets -100.
    """
    buffer = np.full((len(starts), length + 1), IGNORE, dtype=np.int64)
    end = len(tokens)
    for row, start in enumerate(starts.tolist()):  # one slice a row: each is a block copy
        ids = tokens.slice(start, min(start + length + 1, end))
        buffer[row, : len(ids)] = ids
    inputs = buffer[:, :-1].copy()
    inputs[inputs == IGNORE] = 0
    return RowArrays(inputs, buffer[:, 1:].copy())


def too_short(count: int, sequence_length: int) -> UserError:
    """The error for a text that does not fill one row."""
    return UserError(
        "the text is too short for one row",
        found=f"{count} tokens",
        expected=f"at least {sequence_length + 1} (sequence_length + 1)",
        fix="use more text or a smaller sequence_length",
    )
