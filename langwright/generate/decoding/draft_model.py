"""Guessing by a smaller model of the same vocabulary."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from langwright.base import UserError
from langwright.generate.decoding.draw import draw, uniform_for
from langwright.generate.decoding.proposals import Proposal
from langwright.generate.decoding.row import DecodingRow
from langwright.generate.decoding.settings import SamplingRows, filter_logits
from langwright.generate.modes import evaluating
from langwright.model import KVCache, Transformer


class DraftModel:
    """Draws the guesses of each row from a small model, by the row's own settings.

    Each row has its own cache there, kept in the row. Penalties, bans and constraints are left to
    the checking: a guess may come from any distribution.

    Args:
        model: the small model.
        vocab_size: of the large one; both must be equal.
        tokens: most guesses at a time.
        same_text: choose the guesses by the numbers that draw the answer itself, and give no
            distribution: the answer is then the very one that would be drawn without guesses (same
            seed, same text), at the price of fewer accepted guesses at high temperatures.
    """

    def __init__(
        self, model: Transformer, vocab_size: int, *, tokens: int = 4, same_text: bool = False
    ) -> None:
        if model.config.vocab_size != vocab_size:
            raise UserError(
                "the draft model has another vocabulary than the model",
                found=model.config.vocab_size,
                expected=vocab_size,
                fix="take a draft model of the same family",
            )
        self._model, self._tokens, self._same_text = model, tokens, same_text

    def propose(self, rows: Sequence[DecodingRow], most: Sequence[int]) -> list[Proposal]:
        """As of `Proposer`."""
        return [
            self._propose_one(row, min(limit, self._tokens))
            for row, limit in zip(rows, most, strict=True)
        ]

    def _propose_one(self, row: DecodingRow, most: int) -> Proposal:
        state = row.notes.get("draft")
        if state is None:
            state = row.notes["draft"] = _DraftState(self._model)
        most = min(most, self._model.config.context_length - len(row.prompt) - len(row.ids))
        if most < 1:
            return Proposal()
        logits = state.read(row.prompt + row.ids, most)  # (1, V)
        settings = SamplingRows.of([row.params], logits.device)
        greedy = row.params.temperature <= 0
        chosen = greedy or self._same_text
        ids: list[int] = []
        distributions: list[Tensor] = []
        try:
            while True:
                if greedy:
                    token = int(logits.argmax(-1))
                else:
                    p = filter_logits(logits, settings).softmax(-1)  # (1, V)
                    use = "draw" if self._same_text else "draft"
                    number = uniform_for(row.seed, len(row.ids) + len(ids), use)
                    token = int(draw(p, torch.tensor([number], dtype=torch.float64)))
                    distributions.append(p[0])
                ids.append(token)
                if len(ids) == most or token in row.stop_ids:
                    break
                logits = state.guess(token)
        finally:
            state.forget_guesses()
        return Proposal(ids, None if chosen else torch.stack(distributions))


class _DraftState:
    """One row's text in the draft model: what is certain, and the guesses behind it."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._held: list[int] = []  # the certain tokens that the cache holds
        self._cache: KVCache | None = None
        self._guessing: KVCache | None = None
        self._logits: Tensor | None = None

    def read(self, text: list[int], guesses: int) -> Tensor:
        """Take in what the text gained; its logits (1, V). Room is made for `guesses` more."""
        needed = len(text) + guesses
        if self._cache is None or needed > self._cache.capacity:
            room = min(self._model.config.context_length, max(256, 2 * needed))
            device = next(self._model.parameters()).device
            self._cache = KVCache(self._model.config, 1, room, device, self._model.compute_dtype)
            self._held = []
        if self._logits is None or self._held != text:
            self._logits = self._forward(self._cache, text[len(self._held) :])
            self._held = list(text)
        return self._logits

    def guess(self, token: int) -> Tensor:
        """One more guess, for the time being; the logits (1, V) behind it."""
        assert self._cache is not None
        if self._guessing is None:
            # Where only the last tokens are kept, guesses would push certain ones out: on a copy.
            plain = self._cache.window is None and self._cache.history is None
            self._guessing = self._cache if plain else copy.deepcopy(self._cache)
        return self._forward(self._guessing, [token])

    def forget_guesses(self) -> None:
        """Hold the certain tokens only."""
        if self._guessing is not None and self._guessing is self._cache:
            self._cache.advance(len(self._held) - self._cache.row_lengths[0])
        self._guessing = None

    def _forward(self, cache: KVCache, ids: list[int]) -> Tensor:
        with evaluating(self._model):
            tokens = torch.tensor([ids], device=cache.device)
            hidden = self._model.hidden(tokens, cache=cache)  # (1, T, D)
            cache.advance(len(ids))
            return self._model.logits(hidden[:, -1]).float()
