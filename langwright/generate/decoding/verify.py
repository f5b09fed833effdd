"""Checking guesses so that the answer's distribution stays what it would be without them.

Two rules, both exact:

- Guesses without a distribution: the model's own token is drawn at each place; as long as it
  equals the guess, the next place is valid too. The answer is the very one that would be drawn
  without guesses, token for token and seed for seed.
- Guesses x drawn from q: x stands with probability min(1, p(x) / q(x)); else a token is drawn from
  max(0, p - q), normalised. The token's distribution is p (Leviathan et al. 2023, appendix A.1;
  Chen et al. 2023, theorem 1), and no rule accepts more. The text for a seed is another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from langwright.generate.decoding.decoder import Decoder, RowError, step_logprobs
from langwright.generate.decoding.draw import draw, uniform_for
from langwright.generate.decoding.logprobs import TokenLogprobs
from langwright.generate.decoding.proposals import Proposal
from langwright.generate.decoding.row import DecodingRow


@dataclass(frozen=True)
class Verified:
    """The tokens that stand after one forward. `row.take` has been told of each.

    At least one, unless there is an `error`: then no token was possible behind those here.
    """

    ids: list[int]
    logprobs: list[TokenLogprobs | None]
    accepted: int  # how many of the guesses stand
    error: RowError | None = None


def verify(decoder: Decoder, row: DecodingRow, logits: Tensor, proposal: Proposal) -> Verified:
    """Draw the row's next tokens from logits that were made with guesses already in the text.

    Args:
        decoder: the batch's.
        row: the text; it takes the tokens. Nothing is drawn behind one that ends it.
        logits: (k + 1, V): at the text's end and behind each of the k guesses.
        proposal: the k guesses.
    """
    ids: list[int] = []
    logprobs: list[TokenLogprobs | None] = []
    accepted = 0
    for place in range(len(proposal.ids) + 1):
        guess = proposal.ids[place] if place < len(proposal.ids) else None
        here = logits[place : place + 1]  # (1, V)
        try:
            if guess is None or proposal.probabilities is None:
                drawn = decoder.draw(here, [row])
                token, logprob = int(drawn.tokens[0]), drawn.logprobs[0]
            else:
                token, logprob = _accept_or_redraw(
                    decoder, row, here, guess, proposal.probabilities[place]
                )
        except RowError as error:
            return Verified(ids, logprobs, accepted, error)
        row.take(token)
        ids.append(token)
        logprobs.append(logprob)
        if token != guess:
            break
        accepted += 1
        if token in row.stop_ids or row.complete:
            break
    return Verified(ids, logprobs, accepted)


def accept_probability(p: Tensor, q: Tensor, token: int) -> float:
    """min(1, p(x) / q(x)) for distributions p and q (V,)."""
    return min(1.0, float(p[token]) / max(float(q[token]), 1e-45))


def residual(p: Tensor, q: Tensor) -> Tensor:
    """max(0, p - q) (V,), not normalised; p itself where rounding leaves nothing."""
    rest = (p - q).clamp(min=0)
    return rest if bool(rest.sum() > 0) else p


def _accept_or_redraw(
    decoder: Decoder, row: DecodingRow, logits: Tensor, guess: int, q: Tensor
) -> tuple[int, TokenLogprobs | None]:
    """The second rule at one place; logits (1, V), q (V,)."""
    done = decoder.process(logits, [row])
    if row.params.temperature <= 0:
        token = int(done.adjusted.argmax(-1))
    else:
        p, position = done.final[0].softmax(-1), len(row.ids)
        q = q.to(p)
        token = guess
        if uniform_for(row.seed, position, "accept") >= accept_probability(p, q, guess):
            number = torch.tensor([uniform_for(row.seed, position)], dtype=torch.float64)
            token = int(draw(residual(p, q)[None], number))
    return token, step_logprobs(done, torch.tensor([token], device=logits.device), [row])[0]
