"""From the logits of a batch to its next tokens, each row by its own settings.

    raw logits
      -> bans: constraint, bad ids, bad words, too early end tokens  (-inf)
      -> repetition penalty, presence and frequency penalties, logit bias
      -> at temperature 0: the highest
      -> else temperature, top-k, top-p, min-p, typical; one draw by the row's seed

Penalties come first because they are defined on the raw logits; k and temperature commute; p comes
after k, so the nucleus is taken among the k tokens that are left; min-p compares ratios, which
renormalising does not change. A rejected token has the logit -inf, so each step's output is the
next one's input and softmax renormalises.

A row's tokens depend on its own logits, settings and seed only, never on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langwright.base import UserError
from langwright.generate.decoding.draw import draw, uniform_for
from langwright.generate.decoding.logprobs import TokenLogprobs, token_logprobs
from langwright.generate.decoding.penalties import apply_count_penalties, apply_repetition_penalty
from langwright.generate.decoding.row import DecodingRow
from langwright.generate.decoding.settings import SamplingRows, filter_logits
from langwright.generate.decoding.token_counts import stack_counts

AT_ONCE = 200_000  # numbers, so 0.8 MB


class RowError(UserError):
    """Some rows of a batch (`rows`, their numbers) cannot go on; the others can."""

    def __init__(self, rows: Sequence[int], message: str, fix: str | None = None) -> None:
        self.rows = list(rows)
        super().__init__(message, where="constraint", fix=fix)


@dataclass(frozen=True)
class Drawn:
    """One step's tokens (B,) int64 and, for rows that ask, their log-probabilities."""

    tokens: Tensor
    logprobs: list[TokenLogprobs | None]


@dataclass(frozen=True)
class Processed:
    """One step's distributions before the draw."""

    raw: Tensor  # (B, V) fp32: of the model, ids outside the tokenizer's vocabulary -inf
    adjusted: Tensor  # (B, V) after bans, penalties and biases
    final: Tensor  # (B, V) what is drawn from; rows at temperature 0: as `adjusted`


class Decoder:
    """Draws the next token of each row.

    Args:
        vocab_size: the tokenizer's; a padded output layer may have more symbols, which are never
            drawn. None: all.
    """

    def __init__(self, vocab_size: int | None = None) -> None:
        self._vocab = vocab_size
        self._rows: list[DecodingRow] = []  # those that `_stacked` belongs to
        self._stacked: SamplingRows | None = None

    def draw(self, logits: Tensor, rows: Sequence[DecodingRow]) -> Drawn:
        """The next token of each row; `row.take` then tells the row that the token stands.

        Args:
            logits: (B, V), any float type.
            rows: B rows.

        Raises:
            RowError: for a row no token is possible; nothing was changed.
        """
        settings, size = self._settings(rows, logits.device), _rows_at_once(logits)
        tokens: list[Tensor] = []
        logprobs: list[TokenLogprobs | None] = []
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            try:
                drawn = self._draw(logits[part], rows[part], settings.select(part))
            except RowError as error:
                raise RowError(
                    [start + row for row in error.rows], error.message, error.fix
                ) from None
            tokens.append(drawn.tokens)
            logprobs += drawn.logprobs
        return Drawn(torch.cat(tokens), logprobs)

    def process(self, logits: Tensor, rows: Sequence[DecodingRow]) -> Processed:
        """All steps but the draw; see `Processed`. Raises `RowError`."""
        return self._process(logits, rows, self._settings(rows, logits.device))

    def _draw(self, logits: Tensor, rows: Sequence[DecodingRow], settings: SamplingRows) -> Drawn:
        done = self._process(logits, rows, settings)
        tokens = done.adjusted.argmax(-1)
        if any(row.params.temperature > 0 for row in rows):
            numbers = [uniform_for(row.seed, len(row.ids)) for row in rows]
            uniforms = torch.tensor(numbers, dtype=torch.float64)
            drawn = draw(done.final.softmax(-1), uniforms)
            tokens = torch.where(settings.temperature > 0, drawn, tokens)
        return Drawn(tokens, step_logprobs(done, tokens, rows))

    def _process(
        self, logits: Tensor, rows: Sequence[DecodingRow], settings: SamplingRows
    ) -> Processed:
        raw = logits.float()
        if self._vocab is not None and self._vocab < raw.shape[-1]:
            raw = raw.clone()
            raw[:, self._vocab :] = -torch.inf
        adjusted = adjust(raw, rows, settings)
        if any(row.restricted for row in rows):
            dead = (adjusted.amax(-1) == -torch.inf).nonzero()[:, 0].tolist()
            if dead:
                raise RowError(
                    dead,
                    "no token may come next: constraint, bad words, biases and min_tokens together "
                    "exclude all",
                    fix="loosen one of them",
                )
        if all(row.params.temperature <= 0 for row in rows):
            return Processed(raw, adjusted, adjusted)
        final = filter_logits(adjusted, settings)
        if any(row.params.temperature <= 0 for row in rows):
            final = torch.where((settings.temperature <= 0)[:, None], adjusted, final)
        return Processed(raw, adjusted, final)

    def _settings(self, rows: Sequence[DecodingRow], device: torch.device) -> SamplingRows:
        """The rows' settings stacked; made anew only when the rows are others."""
        same = len(rows) == len(self._rows) and all(map(lambda a, b: a is b, rows, self._rows))
        if self._stacked is None or not same or self._stacked.temperature.device != device:
            self._rows = list(rows)
            self._stacked = SamplingRows.of([row.params for row in rows], device)
        return self._stacked


def _rows_at_once(logits: Tensor) -> int:
    """On a CPU a few rows at a time: what lies between the steps then stays in its cache."""
    batch, vocab = logits.shape
    return batch if logits.device.type != "cpu" else max(1, AT_ONCE // vocab)


def adjust(logits: Tensor, rows: Sequence[DecodingRow], settings: SamplingRows) -> Tensor:
    """Bans, penalties and biases of every row: (B, V) -> (B, V)."""
    device = logits.device
    restricted = [index for index, row in enumerate(rows) if row.restricted]
    penalised = [index for index, row in enumerate(rows) if row.penalised]
    if restricted or penalised:
        logits = logits.clone()
    for index in restricted:
        try:
            _ban(logits[index], rows[index])
        except UserError as error:
            raise RowError([index], error.message) from None
    if penalised:
        chosen = torch.tensor(penalised, device=device)
        some = settings.select(chosen)
        ids, counts = stack_counts([rows[index].counts for index in penalised], device)  # (P, L)
        values = logits[chosen[:, None], ids]  # (P, L) the logits of tokens in the texts
        values = apply_repetition_penalty(
            values, torch.ones_like(ids, dtype=torch.bool), some.repetition_penalty
        )
        logits[chosen[:, None], ids] = apply_count_penalties(
            values, counts, some.presence_penalty, some.frequency_penalty
        )
    for index in restricted:
        _bias(logits[index], rows[index])
    return logits


def step_logprobs(
    done: Processed, tokens: Tensor, rows: Sequence[DecodingRow]
) -> list[TokenLogprobs | None]:
    """Log-probabilities for the rows that ask, each from the distribution it wants."""
    found: list[TokenLogprobs | None] = [None] * len(rows)
    for mode, logits in (("raw", done.raw), ("processed", done.final)):
        asking = [
            index
            for index, row in enumerate(rows)
            if row.params.logprobs is not None and row.params.logprobs_mode == mode
        ]
        if not asking:
            continue
        top = [rows[index].params.logprobs or 0 for index in asking]
        values = token_logprobs(logits[asking], tokens[asking], top)
        for index, value in zip(asking, values, strict=True):
            found[index] = value
    return found


def _ban(logits: Tensor, row: DecodingRow) -> None:
    """Take what may not come next out of one row's logits (V,)."""
    if row.matcher is not None:
        allowed = row.matcher.allowed().to(logits.device)
        logits[: len(allowed)].masked_fill_(~allowed[: len(logits)], -torch.inf)
        logits[len(allowed) :] = -torch.inf
    banned = row.banned()
    if banned:
        logits[torch.tensor(banned, device=logits.device)] = -torch.inf


def _bias(logits: Tensor, row: DecodingRow) -> None:
    """Add one row's logit biases to its logits (V,)."""
    bias = row.params.logit_bias
    if not bias:
        return
    ids = torch.tensor(list(bias), device=logits.device)
    logits[ids] += torch.tensor(list(bias.values()), device=logits.device, dtype=logits.dtype)
