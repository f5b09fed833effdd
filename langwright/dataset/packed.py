"""Rows made of whole documents, packed so that little is wasted and nothing leaks.

A document with the ids t0 .. tk and <|endoftext|> (e) after it is trained as

    inputs   h  t0 t1 .. tk
    targets  t0 t1 t2 .. e

so each stored token is a target once a pass. The head h stands for "a document begins": it is e
itself, or the tokenizer's token for the beginning of a text where it has one. Several
documents share a row; `segments` keeps attention within each, and `positions` begin at 0 in each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from langwright.base import UserError, hash_json
from langwright.dataset.batch import IGNORE, PADDING, RowArrays
from langwright.dataset.order import epoch_order
from langwright.dataset.packing import Pieces, best_fit, cut_documents
from langwright.dataset.rows import Rows
from langwright.dataset.tokens import Tokens, as_tokens


class PieceRows(Rows):
    """Rows filled with `Pieces` of a line of tokens: what the packed kinds share.

    Args:
        tokens: the line of ids.
        pieces: the runs of targets to show in one pass.
        sequence_length: T.
        head: first input of a piece that begins a document.
        seed: decides the order of rows in each pass.
        shuffle: shuffle each pass.
        pack: put several pieces in a row (best-fit); False: one piece a row.
        masks: give `segments` and `positions`; False only with one piece a row.
        counted: bool, as long as `tokens`: which tokens count as targets; None: all.
        identity: what else the rows depend on, for the fingerprint.
    """

    def __init__(
        self,
        tokens: Tokens,
        pieces: Pieces,
        sequence_length: int,
        *,
        head: int | None,
        seed: int,
        shuffle: bool,
        pack: bool = True,
        masks: bool = True,
        counted: np.ndarray | None = None,
        identity: Any = None,
    ) -> None:
        if pack and not masks:
            raise ValueError("several documents in a row need masks")
        self.tokens, self.sequence_length = tokens, sequence_length
        self.head = head
        self.seed, self.shuffle, self.masks = seed, shuffle, masks
        self._counted = counted
        if pack:
            bins, count = best_fit(pieces.length, sequence_length)
            order = np.argsort(bins, kind="stable")  # within a row, as in the text
            pieces = pieces.take(order)
            self._first = np.searchsorted(bins[order], np.arange(count + 1))  # (rows + 1,)
        else:
            count = len(pieces)
            self._first = np.arange(count + 1)
        self.pieces = pieces
        self.epoch_rows: int = count
        self.fingerprint = hash_json(
            [type(self).__name__, tokens.fingerprint, sequence_length, head, seed, shuffle]
            + [pack, identity]
        )

    @property
    def fill(self) -> float:
        """Share of all places in a pass that hold text (the rest is padding)."""
        return float(self.pieces.length.sum()) / (self.epoch_rows * self.sequence_length)

    @property
    def targets(self) -> int:
        """Targets counted in one pass."""
        if self._counted is None:
            return self.pieces.counted
        return int(self._counted[_spans(self.pieces.start, self.pieces.length)].sum())

    def gather(self, indices: np.ndarray) -> RowArrays:
        rows = epoch_order(indices, self.epoch_rows, self.seed, shuffle=self.shuffle)
        return self.fill_rows(rows)

    def fill_rows(self, rows: np.ndarray) -> RowArrays:
        """The rows of the plan with these numbers (N,), before any shuffling."""
        width = self.sequence_length
        held = self._first[rows + 1] - self._first[rows]  # pieces in each row
        chosen = _spans(self._first[rows], held)  # (P,) pieces, row after row
        start, length = self.pieces.start[chosen], self.pieces.length[chosen]
        row = np.repeat(np.arange(len(rows)), held)  # row of each piece
        segment = np.arange(len(chosen)) - np.repeat(np.cumsum(held) - held, held)
        begin = np.cumsum(length) - length  # where the piece begins in the line of all places
        row_begin = begin[np.cumsum(held) - held]  # (N,); every row holds a piece
        places = _spans(row * width + begin - row_begin[row], length)  # flat places in (N, T)
        positions = np.arange(int(length.sum())) - np.repeat(begin, length)
        source = positions + np.repeat(start, length)
        ids = self.tokens.gather(source)

        inputs = np.roll(ids, 1)
        fresh = self.pieces.fresh[chosen]
        heads = np.full(len(chosen), self.head or 0, dtype=np.int64)
        heads[~fresh] = self.tokens.gather(start[~fresh] - 1)
        inputs[begin] = heads

        uncounted = positions < np.repeat(self.pieces.skip[chosen], length)
        if self._counted is not None:
            uncounted |= ~self._counted[source]
        ids[uncounted] = IGNORE

        shape = (len(rows), width)
        result = RowArrays(
            inputs=_scatter(inputs, places, shape, self.head or 0),
            targets=_scatter(ids, places, shape, IGNORE),
        )
        if self.masks:
            numbers = np.repeat(segment, length).astype(np.int32)
            result.segments = _scatter(numbers, places, shape, PADDING)
            result.positions = _scatter(positions, places, shape, 0)
        return result


class PackedRows(PieceRows):
    """Whole documents, best-fit packed; attention and targets stay within each document.

    A document longer than a row is cut into pieces (each an attention segment of its own), cut
    off, or left out. The plan depends on the documents' lengths only; every pass shuffles the
    order of its rows.

    Args:
        tokens: ids of all documents in one line: an array or `Tokens`.
        offsets: (documents + 1,), where each begins, and the end.
        sequence_length: T.
        head: the first input of each document (<|endoftext|>, or a token for the beginning);
            None if there is none: then a document's first token is not predicted.
        seed, shuffle: the order of each pass.
        long: "cut", "truncate" or "drop" documents longer than a row.
    """

    def __init__(
        self,
        tokens: Any,
        offsets: np.ndarray,
        sequence_length: int,
        *,
        head: int | None,
        seed: int = 0,
        shuffle: bool = True,
        long: str = "cut",
    ) -> None:
        line = as_tokens(tokens)
        starts, ends = document_spans(offsets)
        pieces = cut_documents(starts, ends, sequence_length, headed=head is not None, long=long)
        if len(pieces) == 0:
            raise UserError(
                "no document can be used",
                found=f"{len(starts)} documents",
                expected="documents of at least two tokens"
                + (f", at most {sequence_length}" if long == "drop" else ""),
            )
        super().__init__(
            line, pieces, sequence_length, head=head, seed=seed, shuffle=shuffle,
            identity=long,
        )  # fmt: skip


def document_spans(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of each document, int64, from offsets with an end."""
    wide = np.asarray(offsets).astype(np.int64)
    starts, ends = wide[:-1], wide[1:]
    if (ends < starts).any():
        raise UserError("document offsets run backwards", fix="build the dataset again")
    return starts, ends


def _spans(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """start, start+1, ... start+length-1 of each span, one after another, int64."""
    begin = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - begin, lengths)


def _scatter(
    values: np.ndarray, places: np.ndarray, shape: tuple[int, int], padding: int
) -> np.ndarray:
    result = np.full(shape, padding, dtype=values.dtype)
    result.reshape(-1)[places] = values
    return result
