"""Bits per byte over whole documents: comparable between tokenizers, and with compressors.

Each document is evaluated alone, from the beginning token (eos) on, and its end token counts too:
together they are a code for the documents. Documents longer than the context are read in
overlapping windows, and each token is counted once, in the first window that reaches it, so that
it is predicted from at least context_length - stride tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from langwright.base import UserError
from langwright.dataset import IGNORE, Batch
from langwright.evaluate.loss import Loss, row_sums, tokens_at_once
from langwright.model import Transformer
from langwright.tokenizer import Tokenizer


@dataclass(frozen=True)
class _Window:
    """Inputs ids[start : stop], of which the last `counted` predict something new."""

    document: int
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
    progress: Callable[[int], None] | None = None,
) -> Loss:
    """Loss and bits per UTF-8 byte over documents. See `document_losses`."""
    return document_losses(model, tokenizer, texts, stride=stride, progress=progress).loss()


def document_losses(
    model: Transformer,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    stride: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> DocumentLosses:
    """What the model needs for each document.

    Args:
        model: any mode; left as it was.
        texts: documents; empty ones are not allowed.
        stride: new tokens per window in long documents; None: half the context. Smaller gives
            each token more context and takes longer.
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
    documents = [
        np.concatenate(([border], np.asarray(ids, dtype=np.int64), [border]))
        for ids in tokenizer.encode_batch(texts)
    ]
    windows = [
        window
        for index, ids in enumerate(documents)
        for window in _windows(index, len(ids) - 1, context, stride)
    ]
    nats = np.zeros(len(texts))
    tokens = np.zeros(len(texts), dtype=np.int64)
    for group in _groups(windows, tokens_at_once(device)):
        batch = _batch(documents, group).to(device)
        row_nats, row_tokens = row_sums(model, batch)
        owners = [window.document for window in group]
        np.add.at(nats, owners, row_nats)
        np.add.at(tokens, owners, row_tokens)
        if progress is not None:
            progress(int(row_tokens.sum()))
    sizes = np.array([len(text.encode("utf-8", "replace")) for text in texts], dtype=np.int64)
    return DocumentLosses(nats, tokens, sizes)


def _windows(document: int, inputs: int, context: int, stride: int) -> Iterator[_Window]:
    """Windows over a document of `inputs` inputs, each input's target counted once."""
    done = 0
    while done < inputs:
        stop = min(inputs, context if done == 0 else done + stride)
        start = max(0, stop - context)
        yield _Window(document, start, stop, stop - done)
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


def _batch(documents: list[np.ndarray], windows: list[_Window]) -> Batch:
    """Windows as rows, padded on the right: what comes before a pad does not see it."""
    longest = max(window.stop - window.start for window in windows)
    inputs = np.zeros((len(windows), longest), dtype=np.int64)
    targets = np.full((len(windows), longest), IGNORE, dtype=np.int64)
    for row, window in enumerate(windows):
        ids = documents[window.document]
        length = window.stop - window.start
        inputs[row, :length] = ids[window.start : window.stop]
        new = window.counted
        targets[row, length - new : length] = ids[window.stop - new + 1 : window.stop + 1]
    return Batch(torch.from_numpy(inputs), torch.from_numpy(targets))
