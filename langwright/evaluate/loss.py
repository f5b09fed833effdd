"""Loss over rows: the number that training follows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from langwright.dataset import IGNORE, Batch, Rows
from langwright.evaluate.intervals import ratio_standard_error
from langwright.generate import evaluating
from langwright.model import Transformer

LOGITS_AT_ONCE = 1 << 24  # logits (tokens x vocabulary) that stand in memory together


@dataclass(frozen=True)
class Loss:
    """How well text was predicted.

    `nats_per_token` is the mean over all tokens (each counts once, whatever its row), and
    `standard_error` its uncertainty over rows or documents. `bits_per_byte` is known where the
    text's size is.
    """

    nats_per_token: float
    tokens: int
    units: int  # rows or documents
    standard_error: float | None  # of nats_per_token; None for a single unit
    bits_per_byte: float | None = None
    bits_per_byte_error: float | None = None  # standard error
    bytes: int | None = None

    @property
    def perplexity(self) -> float:
        """exp(nats per token): V for a model that knows nothing. Infinite beyond float64."""
        return math.exp(self.nats_per_token) if self.nats_per_token < 709 else math.inf

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, perplexity included."""
        perplexity = self.perplexity if math.isfinite(self.perplexity) else None
        return {**asdict(self), "perplexity": perplexity}

    @classmethod
    def from_sums(
        cls, nats: np.ndarray, tokens: np.ndarray, size: np.ndarray | None = None
    ) -> Loss:
        """From per-unit sums: nats, counted tokens and, if known, UTF-8 bytes."""
        total = int(tokens.sum())
        if total == 0:
            raise ValueError("no tokens to take a loss over")
        error = ratio_standard_error(nats, tokens)
        loss = cls(
            nats_per_token=float(nats.sum(dtype=np.float64) / total),
            tokens=total,
            units=len(nats),
            standard_error=error if math.isfinite(error) else None,
        )
        if size is None:
            return loss
        bits = nats.astype(np.float64) / math.log(2)
        bits_error = ratio_standard_error(bits, size)
        return cls(
            **{
                **asdict(loss),
                "bits_per_byte": float(bits.sum() / size.sum()),
                "bits_per_byte_error": bits_error if math.isfinite(bits_error) else None,
                "bytes": int(size.sum()),
            }
        )


def token_losses(model: Transformer, batch: Batch) -> Tensor:
    """-log p of each target in nats: float32 (B, T), 0 where the target is not counted.

    Logits are made for a part of the tokens at a time, and only for counted ones. The caller
    chooses mode and gradients.
    """
    hidden = model.hidden(batch.inputs, segments=batch.segments, positions=batch.positions)
    counted = batch.targets != IGNORE  # (B, T)
    chosen, targets = hidden[counted], batch.targets[counted]  # (N, D), (N,)
    step = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
    parts = [
        F.cross_entropy(model.logits(some).float(), right, reduction="none")
        for some, right in zip(chosen.split(step), targets.split(step), strict=True)
    ]
    losses = torch.zeros(counted.shape, dtype=torch.float32, device=hidden.device)
    if parts:
        losses[counted] = torch.cat(parts)
    return losses


def evaluate_rows(
    model: Transformer,
    rows: Rows,
    max_rows: int | None = None,
    *,
    start: int = 0,
    batch_rows: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Loss:
    """Loss over rows `start` to the end of the pass, or over `max_rows` of them.

    Args:
        model: any mode; it is evaluated without dropout and gradients and left as it was. It
            computes in its `compute_dtype`; sums are float64.
        rows: what to predict. Without an end (`epoch_rows` None), `max_rows` is needed.
        max_rows: most rows to look at.
        batch_rows: rows at a time; None: by size.
        progress: called with the number of rows done by each step.
    """
    return Loss.from_sums(
        *row_losses(model, rows, max_rows, start=start, batch_rows=batch_rows, progress=progress)
    )


def row_losses(
    model: Transformer,
    rows: Rows,
    max_rows: int | None = None,
    *,
    start: int = 0,
    batch_rows: int | None = None,
    progress: Callable[[int], None] | None = None,
    part: int = 0,
    parts: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of losses (nats, float64) and number of counted targets of each row: (N,) each.

    Args:
        part, parts: only the rows of this one of so many parts, perhaps none. The parts together
            have every row once, and each makes as many forward passes of as many rows.
        model, rows, max_rows, start, batch_rows, progress: as of `evaluate_rows`.
    """
    if max_rows is None and rows.epoch_rows is None:
        raise ValueError("these rows never end: give max_rows")
    limits = [max_rows, None if rows.epoch_rows is None else rows.epoch_rows - start]
    count = min(limit for limit in limits if limit is not None)
    if count < 1:
        raise ValueError("no rows to evaluate")
    device = next(model.parameters()).device
    batch_rows = batch_rows or max(1, tokens_at_once(device) // rows.sequence_length)
    nats, tokens = [], []
    for first, size, others in _passes(count, batch_rows, part, parts):
        batch = rows.batch(start + first, size).to(device)
        row_nats, row_tokens = row_sums(model, batch)
        nats.append(row_nats[others:])
        tokens.append(row_tokens[others:])
        if progress is not None:
            progress(size - others)
    return np.concatenate(nats), np.concatenate(tokens)


def _passes(count: int, batch_rows: int, part: int, parts: int) -> Iterator[tuple[int, int, int]]:
    """(first row, rows, how many of these, at its beginning, do not count) of each pass of a part:
    passes over the end begin earlier, with rows that another pass counts."""
    batch_rows = min(batch_rows, -(-count // parts))
    rounds = -(-count // (batch_rows * parts))
    for number in range(part, rounds * parts, parts):
        first = number * batch_rows
        if parts == 1:
            yield first, min(batch_rows, count - first), 0
        else:
            begin = min(first, count - batch_rows)
            yield begin, batch_rows, min(batch_rows, first - begin)


def row_sums(model: Transformer, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """Sum of losses (nats, float64) and number of counted targets of each row: (B,) each."""
    with evaluating(model):
        losses = token_losses(model, batch).cpu().numpy()
    counted = (batch.targets != IGNORE).sum(-1).cpu().numpy()
    return losses.sum(-1, dtype=np.float64), counted


def tokens_at_once(device: torch.device) -> int:
    """Tokens of one evaluation batch: enough to keep the device busy, small enough to fit."""
    return 1 << 16 if device.type == "cuda" else 1 << 13
