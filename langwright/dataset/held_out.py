"""Rows that show a held-out split exactly once, for measuring.

Bits per byte is the sum of nats over all counted targets, divided by ln 2 and by the bytes of
the text. Counted are all tokens of the text and the separator after each document; the
separator costs nats but adds no byte, so the figure errs on the high side. The first token of a
document is predicted from the head before it (the separator, or a token for the beginning).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from langwright.base import UserError, hash_json
from langwright.dataset.batch import IGNORE, PADDING, RowArrays
from langwright.dataset.mixing import merge
from langwright.dataset.packed import PieceRows, document_spans
from langwright.dataset.packing import cut_documents
from langwright.dataset.rows import Rows
from langwright.dataset.shards import TokenShards, TokenStream

_ORDER_SEED = 0  # fixed: the first rows are the same random sample in every run


class EvalRows(Rows):
    """Rows that count each target of a text exactly once; further rows are padding.

    Attributes:
        epoch_rows: rows that hold text.
        bytes: UTF-8 bytes that the counted targets stand for.
        targets: how many targets are counted.
        bytes_per_target: `bytes` / `targets`: turns nats per token, even over some rows only
            (they come in a fixed random order), into bits per byte.
    """

    def __init__(self, rows: list[PieceRows], text_bytes: int) -> None:
        self._rows = rows
        self._ends = np.cumsum([part.epoch_rows for part in rows])
        self.sequence_length = rows[0].sequence_length
        self.epoch_rows: int = int(self._ends[-1])
        self.bytes = text_bytes
        self.targets = sum(part.targets for part in rows)
        self.fingerprint = hash_json(["eval", [part.fingerprint for part in rows]])

    @property
    def bytes_per_target(self) -> float:
        """UTF-8 bytes for each counted target, on average."""
        return self.bytes / self.targets

    def gather(self, indices: np.ndarray) -> RowArrays:
        part = np.searchsorted(self._ends, indices, side="right")
        parts = []
        for number in np.unique(part):
            places = np.nonzero(part == number)[0]
            if number == len(self._rows):
                parts.append((places, self._padding(len(places))))
                continue
            rows = self._rows[number]
            begin = int(self._ends[number]) - rows.epoch_rows
            parts.append((places, rows.gather(indices[places] - begin)))
        if len(parts) == 1:
            return parts[0][1]
        return merge(parts, len(indices), self.sequence_length)

    def _padding(self, count: int) -> RowArrays:
        shape = (count, self.sequence_length)
        zeros = np.zeros(shape, dtype=np.int64)
        targets = np.full(shape, IGNORE, dtype=np.int64)
        if not self._rows[0].masks:
            return RowArrays(zeros, targets)
        segments = np.full(shape, PADDING, dtype=np.int32)
        return RowArrays(zeros, targets, segments, zeros.copy())


def eval_windows(
    dataset: str | Path | TokenShards,
    split: str = "valid",
    source: str | None = None,
    *,
    sequence_length: int | None = None,
    stride: int | None = None,
    documents: bool | None = None,
) -> EvalRows:
    """A whole split as rows in which each target is counted exactly once.

    Args:
        dataset: a folder made by `build_dataset`.
        split: its split.
        source: one source; None: all of them.
        sequence_length: T; None: as the dataset was built for.
        stride: a further row of a long text counts `stride` targets and repeats the T - stride
            tokens before them as context (-100). Smaller: more context for every token, T/stride
            times the work. None: T, no token is read twice.
        documents: True: each document by itself, packed, with masks; False: one running text.
            None: the way the dataset is trained on (packing "documents" or not).

    Raises:
        UserError: no such split or source, or nothing in it to predict.
    """
    shards = dataset if isinstance(dataset, TokenShards) else TokenShards(dataset)
    config = shards.meta.config
    length = config.sequence_length if sequence_length is None else sequence_length
    if documents is None:
        documents = config.packing == "documents"
    if stride is not None and not 1 <= stride <= length:
        raise UserError(
            "the evaluation stride does not fit the rows",
            found=stride,
            expected=f"1 to sequence_length ({length})",
        )
    names = shards.sources(split) if source is None else [source]
    streams = [shards.stream(split, name) for name in names]
    rows = [_rows(stream, length, stride, documents) for stream in streams if len(stream) > 1]
    if not rows:
        raise UserError("there is nothing to evaluate on", where=shards.folder / split)
    text_bytes = sum(
        stream.info.text_bytes - (stream.info.head_bytes if documents else stream.info.first_bytes)
        for stream in streams
    )
    return EvalRows(rows, text_bytes)


def _rows(stream: TokenStream, length: int, stride: int | None, documents: bool) -> PieceRows:
    if documents:
        starts, ends = document_spans(stream.offsets)
    else:
        starts, ends = np.array([0]), np.array([len(stream)])
    headed = stream.head is not None
    pieces = cut_documents(starts, ends, length, headed=headed, stride=stride)
    return PieceRows(
        stream,
        pieces,
        length,
        head=stream.head,
        seed=_ORDER_SEED,
        shuffle=True,
        pack=documents,
        masks=documents,
        identity=[stride, documents],
    )
