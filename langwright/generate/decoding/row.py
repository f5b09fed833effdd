"""One request while its tokens are drawn: what the processors remember of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from langwright.base import UserError
from langwright.generate.decoding.bad_words import BadWords
from langwright.generate.decoding.bans import banned_next, early_ends
from langwright.generate.decoding.constraint import Matcher, compile_constraint
from langwright.generate.decoding.token_counts import TokenCounts
from langwright.generate.params import SamplingParams
from langwright.tokenizer import Tokenizer

NEVER = -100  # a logit bias at or below this excludes the token


class DecodingRow:
    """Settings, seed, tokens and the state of bans and constraint of one text.

    `Decoder.draw` reads it; whoever runs the loop calls `take` with each token that stands.

    Args:
        params: the settings.
        prompt: the prompt's ids.
        vocab_size: V, the model's number of tokens.
        seed: of this row; token i is drawn by the number `uniform_for(seed, i)`.
        stop_ids: the model's end tokens (without those of `params`).
        tokenizer: needed for bad words and constraints.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: Sequence[int],
        *,
        vocab_size: int,
        seed: int,
        stop_ids: Collection[int] = (),
        tokenizer: Tokenizer | None = None,
    ) -> None:
        check_ids(params, vocab_size)
        self.params, self.prompt, self.seed = params, list(prompt), seed
        self.vocab_size = vocab_size
        self.ids: list[int] = []
        self.notes: dict[str, Any] = {}  # what proposers of guesses keep with the text
        own = frozenset() if params.ignore_eos else frozenset(stop_ids)
        self.stop_ids = own | frozenset(params.stop_ids)
        self.matcher: Matcher | None = None
        self._words: BadWords | None = None
        self._counts: TokenCounts | None = None
        # A dead end is looked for only where something can be excluded.
        self.restricted = bool(
            params.constraint
            or params.bad_ids
            or params.bad_words
            or params.logit_bias
            or params.min_tokens
        )
        self.penalised = (
            params.repetition_penalty != 1
            or params.presence_penalty != 0
            or params.frequency_penalty != 0
        )
        if tokenizer is None and (params.bad_words or params.constraint):
            raise UserError(
                "bad_words and constraints need the tokenizer", fix="use bad_ids, or give one"
            )
        if tokenizer is not None and params.constraint is not None:
            ends = stop_ids or tokenizer.stop_ids
            self.matcher = compile_constraint(params.constraint, tokenizer, ends)
        if tokenizer is not None and params.bad_words:
            self._words = BadWords(params.bad_words, tokenizer)

    def take(self, token: int) -> None:
        """The next token of the text."""
        if self.matcher is not None:
            self.matcher.take(token)
        if self._words is not None:
            self._words.take(token)
        if self._counts is not None:
            self._counts.take(token)
        self.ids.append(token)

    @property
    def complete(self) -> bool:
        """Whether the constraint is fulfilled and lets nothing follow: the answer ends here."""
        return self.matcher is not None and self.matcher.complete

    def banned(self) -> list[int]:
        """The ids that may not come next, the constraint's aside."""
        one = self.params
        found = banned_next(self.ids, one.bad_ids)
        found += early_ends(len(self.ids), one.min_tokens, self.stop_ids)
        found += [token for token, bias in one.logit_bias.items() if bias <= NEVER]
        return found if self._words is None else found + self._words.banned()

    @property
    def counts(self) -> TokenCounts:
        """How often each token stands in the text; kept only where a penalty asks for it."""
        if self._counts is None:
            self._counts = TokenCounts(self.prompt, self.ids)
        return self._counts


def check_ids(params: SamplingParams, vocab_size: int) -> None:
    """Raise a `UserError` where the settings name a token that the model does not have."""
    named = {
        "logit_bias": list(params.logit_bias),
        "stop_ids": params.stop_ids,
        "bad_ids": [token for ids in params.bad_ids for token in ids],
    }
    for where, ids in named.items():
        wrong = next((token for token in ids if not 0 <= token < vocab_size), None)
        if wrong is not None:
            raise UserError(
                "no such token in this model",
                where=where,
                found=wrong,
                expected=f"0 ... {vocab_size - 1}",
            )
