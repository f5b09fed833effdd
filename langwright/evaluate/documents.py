"""Bits per byte over whole documents: comparable between tokenizers, and with compressors.

Documents are read each alone, from the beginning token (eos) on, or one after another, as a
compressor reads them. Their end tokens count too: together the losses are a code for the
documents. What is longer than the context is read in overlapping windows, and each token is
counted once, in the first window that reaches it, so that it is predicted from at least
context_length - stride tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from langwright.base import UserError
from langwright.dataset import IGNORE, Batch
from langwright.evaluate.loss import Loss, token_losses, tokens_at_once
from langwright.generate import evaluating
from langwright.model import Transformer
from langwright.tokenizer import Tokenizer


@dataclass(frozen=True)
class _Stream:
    """Ids that are read in one go, and the document that each target (ids[1:]) belongs to."""

    ids: np.ndarray  # int64 (n + 1,)
    owners: np.ndarray  # int64 (n,)


@dataclass(frozen=True)
class _Window:
    """Inputs ids[start : stop] of a stream, of which the last `counted` predict something new."""

    stream: int
    start: int
    stop: int
    counted: int


@dataclass(frozen=True)
class DocumentLosses:
    """Per document: nats of all its tokens and its end, number of these, UTF-8 bytes. (N,) each."""

    nats: np.ndarray
    tokens: np.ndarray
    bytes: np.ndarray

    def loss(self, which: np.ndarray | None = None) -> Loss:
        """The loss over all documents, or over those where the bool array `which` (N,) is True."""
        pick = slice(None) if which is None else which
        return Loss.from_sums(self.nats[pick], self.tokens[pick], self.bytes[pick])


def bits_per_byte(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    stride: int | None = None,
    together: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Loss:
    """Loss and bits per UTF-8 byte over documents. See `document_losses`."""
    losses = document_losses(
        model, tokenizer, texts, stride=stride, together=together, progress=progress
    )
    return losses.loss()


def document_losses(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    stride: int | None = None,
    together: bool = False,
    progress: Callable[[int], None] | None = None,
) -> DocumentLosses:
    """What the model needs for each document.

    Args:
        model: any mode; left as it was.
        texts: documents; empty ones are not allowed.
        stride: new tokens per window in long documents; None: half the context. Smaller gives
            each token more context and takes longer.
        together: the model sees the documents before; for models trained on a stream of them.
        progress: called with the number of tokens counted by each step.
    """
    border = tokenizer.eos_id if tokenizer.eos_id is not None else tokenizer.bos_id
    if border is None:
        raise UserError(
            "bits per byte needs a token for the beginning of a document",
            found="a tokenizer without one",
            expected="a special token such as <|endoftext|>",
        )
    context = model.config.context_length
    stride = stride or max(1, context // 2)
    if not 1 <= stride <= context:
        raise UserError("stride out of range", found=stride, expected=f"1 to {context}")
    device = next(model.parameters()).device
    streams = _streams(tokenizer.encode_batch(texts), border, together)
    windows = [
        window
        for index, stream in enumerate(streams)
        for window in _windows(index, len(stream.owners), context, stride)
    ]
    nats = np.zeros(len(texts))
    tokens = np.zeros(len(texts), dtype=np.int64)
    for group in _groups(windows, tokens_at_once(device)):
        batch, owners = _batch(streams, group)
        with evaluating(model):
            losses = token_losses(model, batch.to(device)).cpu().numpy()
        counted = owners >= 0
        np.add.at(nats, owners[counted], losses[counted].astype(np.float64))
        np.add.at(tokens, owners[counted], 1)
        if progress is not None:
            progress(int(counted.sum()))
    sizes = np.array([len(text.encode("utf-8", "replace")) for text in texts], dtype=np.int64)
    return DocumentLosses(nats, tokens, sizes)


def _streams(documents: Sequence[np.ndarray], border: int, together: bool) -> list[_Stream]:
    """Border, ids, border for each document; or all of them with one border between two."""
    ended = [np.append(np.asarray(ids, dtype=np.int64), border) for ids in documents]
    owners = [np.full(len(ids), index) for index, ids in enumerate(ended)]
    if together:
        ended, owners = [np.concatenate(ended)], [np.concatenate(owners)]
    return [
        _Stream(np.concatenate(([border], ids)), owner)
        for ids, owner in zip(ended, owners, strict=True)
    ]


def _windows(stream: int, inputs: int, context: int, stride: int) -> Iterator[_Window]:
    """Windows over a stream of `inputs` inputs, each input's target counted once."""
    done = 0
    while done < inputs:
        stop = min(inputs, context if done == 0 else done + stride)
        start = max(0, stop - context)
        yield _Window(stream, start, stop, stop - done)
        done = stop


def _groups(windows: list[_Window], tokens: int) -> Iterator[list[_Window]]:
    """Windows of similar length together, each group at most about `tokens` places."""
    ordered = sorted(windows, key=lambda window: window.start - window.stop)
    first = 0
    while first < len(ordered):
        length = ordered[first].stop - ordered[first].start
        rows = max(1, tokens // length)
        yield ordered[first : first + rows]
        first += rows


def _batch(streams: list[_Stream], windows: list[_Window]) -> tuple[Batch, np.ndarray]:
    """Windows as rows, padded on the right (what comes before a pad does not see it), and the
    document that each counted target belongs to, (B, T), -1 where none is counted."""
    longest = max(window.stop - window.start for window in windows)
    inputs = np.zeros((len(windows), longest), dtype=np.int64)
    targets = np.full((len(windows), longest), IGNORE, dtype=np.int64)
    owners = np.full((len(windows), longest), -1, dtype=np.int64)
    for row, window in enumerate(windows):
        stream, length = streams[window.stream], window.stop - window.start
        inputs[row, :length] = stream.ids[window.start : window.stop]
        new = slice(window.stop - window.counted, window.stop)
        targets[row, length - window.counted : length] = stream.ids[1:][new]
        owners[row, length - window.counted : length] = stream.owners[new]
    return Batch(torch.from_numpy(inputs), torch.from_numpy(targets)), owners
