"""One step of a batch with guesses: k guesses of each row go through the model at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from langwright.base import UserError
from langwright.generate.decoding.decoder import Decoder
from langwright.generate.decoding.proposals import Proposal, Proposer
from langwright.generate.decoding.row import DecodingRow
from langwright.generate.decoding.verify import Verified, verify
from langwright.generate.modes import evaluating
from langwright.generate.padding import padded_ids
from langwright.model import KVCache, Transformer


@dataclass
class SpeculationCounts:
    """How well the guesses did."""

    steps: int = 0  # forwards, times rows
    proposed: int = 0
    accepted: int = 0
    tokens: int = 0

    def add(self, proposal: Proposal, verified: Verified) -> None:
        """Count one row's step."""
        self.steps += 1
        self.proposed += len(proposal.ids)
        self.accepted += verified.accepted
        self.tokens += len(verified.ids)

    @property
    def tokens_per_step(self) -> float:
        """Mean tokens per forward and row; 1 without guesses."""
        return self.tokens / max(1, self.steps)


def speculative_step(
    model: Transformer,
    cache: KVCache,
    decoder: Decoder,
    rows: Sequence[DecodingRow],
    proposer: Proposer,
    left: Sequence[int],
    counts: SpeculationCounts | None = None,
) -> list[Verified]:
    """The next tokens of each row, at least one and at most `left[i]`.

    A row without a possible token has an `error` in its result; the others are not concerned.

    `cache` holds each row's text without its last token, before and after: guesses that fail are
    not counted as held, so later tokens take their places.

    Args:
        model, cache, decoder, rows: of the batch.
        proposer: where the guesses come from.
        left: how many tokens each row may still draw, at least 1.
        counts: is added to.
    """
    check_speculation(cache)
    room = cache.capacity - max(cache.row_lengths) - 1  # the longest row's places bound all rows
    most = [min(one - 1, room) for one in left]
    proposals = [
        one.cut(limit) for one, limit in zip(proposer.propose(rows, most), most, strict=True)
    ]
    texts = [row.ids or row.prompt for row in rows]
    ids = padded_ids(  # (B, 1 + k)
        [[text[-1], *one.ids] for text, one in zip(texts, proposals, strict=True)]
    )
    with evaluating(model):
        logits = model.logits(model.hidden(ids.to(cache.device), cache=cache))  # (B, 1 + k, V)
    done = []
    for index, (row, one) in enumerate(zip(rows, proposals, strict=True)):
        verified = verify(decoder, row, logits[index, : 1 + len(one.ids)], one)
        if counts is not None:
            counts.add(one, verified)
        done.append(verified)
    # The text's last token went through the model, and all new ones but the newest.
    cache.advance([len(one.ids) for one in done])
    return done


def check_speculation(cache: KVCache) -> None:
    """Raise where a model's position angles depend on the length of the text, guesses included."""
    if cache.history is not None:
        raise UserError(
            "guesses would change this model's answer: its rotary angles follow the text's length",
            where="speculate",
            fix="switch speculation off for this model",
        )
