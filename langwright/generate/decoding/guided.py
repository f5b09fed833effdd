"""Two distributions as one: a text is drawn from what one says and another does not.

- Classifier-free guidance: the model with the prompt against the model with a negative prompt
  (or none). Away from the latter: u + scale (c - u) on log-probabilities.
  Sanchez et al. 2023, "Stay on topic with classifier-free guidance", equation 7.
- Contrastive decoding: a large model against a small one (the amateur), among the tokens that the
  large one finds plausible. Li et al. 2023, "Contrastive decoding", equations 2 to 4, in the form
  of O'Brien and Lewis 2023, (1 + beta) s_expert - beta s_amateur on logits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langwright.base import UserError
from langwright.generate.decoding.decoder import Decoder
from langwright.generate.decoding.row import DecodingRow
from langwright.generate.modes import evaluating
from langwright.generate.output import Completion, Output
from langwright.generate.params import SamplingParams
from langwright.model import KVCache, Transformer
from langwright.tokenizer import Tokenizer

Combine = Callable[[Tensor, Tensor], Tensor]


def guide_logits(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on logits (B, V): log-probabilities of the new distribution, up to a
    constant. Scale 1 gives the conditional logits themselves, 0 the unconditional distribution,
    above 1 goes beyond the conditional one.
    """
    away = conditional.log_softmax(-1) - unconditional.log_softmax(-1)
    return conditional + (scale - 1) * away


def contrast_logits(
    expert: Tensor, amateur: Tensor, beta: float = 0.5, plausible: float = 0.1
) -> Tensor:
    """Contrastive decoding on logits (B, V).

    Args:
        expert, amateur: logits of the large and the small model.
        beta: how strongly the amateur is held against a token; 0 leaves the expert's.
        plausible: tokens below this share of the expert's likeliest are dropped (-inf).
    """
    floor = expert.amax(-1, keepdim=True) + math.log(plausible)
    mixed = (1 + beta) * expert - beta * amateur
    return mixed.masked_fill(expert < floor, -torch.inf)


@dataclass(frozen=True)
class Source:
    """A model and the prompt that it reads before the answer."""

    model: Transformer
    prompt: Sequence[int]


def generate_guided(
    first: Source,
    second: Source,
    combine: Combine,
    params: SamplingParams,
    stop_ids: Collection[int] = (),
    *,
    tokenizer: Tokenizer | None = None,
    seed: int = 0,
) -> Completion:
    """Draw an answer from the combined distribution; both sources read it as it grows.

    Args:
        first: what the text follows; its prompt is the one penalties look at.
        second: what it is guided away from. The same model may stand in both.
        combine: logits (1, V) of the first and the second -> (1, V), as `guide_logits`.
        params: settings; they act on the combined logits.
        stop_ids, tokenizer: as in `generate_tokens`.
        seed: of this answer.
    """
    if first.model.config.vocab_size != second.model.config.vocab_size:
        raise UserError(
            "the two models have different vocabularies",
            found=second.model.config.vocab_size,
            expected=first.model.config.vocab_size,
        )
    room = min(one.model.config.context_length - len(one.prompt) for one in (first, second))
    if room < 1 or not first.prompt or not second.prompt:
        raise UserError("a prompt is empty or fills its model's context")
    limit = min(params.max_tokens, room)
    vocab = first.model.config.vocab_size
    row = DecodingRow(
        params, first.prompt, vocab_size=vocab, seed=seed, stop_ids=stop_ids, tokenizer=tokenizer
    )
    output = Output(0, row, limit=limit, tokenizer=tokenizer)
    decoder = Decoder(tokenizer.vocab_size if tokenizer else None)
    readers = [_Reader(one, limit) for one in (first, second)]
    logits = [reader.read(list(reader.prompt)) for reader in readers]
    while True:
        drawn = decoder.draw(combine(logits[0], logits[1]), [row])
        token = int(drawn.tokens[0])
        row.take(token)
        output.take(token, drawn.logprobs[0])
        if output.finished:
            return output.completion
        logits = [reader.read([token]) for reader in readers]


class _Reader:
    """One source reading along: ids in, the logits (1, V) behind them out."""

    def __init__(self, source: Source, limit: int) -> None:
        self.prompt, self._model = source.prompt, source.model
        device = next(source.model.parameters()).device
        capacity = len(source.prompt) + limit
        dtype = source.model.compute_dtype
        self._cache = KVCache(source.model.config, 1, capacity, device, dtype)

    def read(self, ids: Sequence[int]) -> Tensor:
        with evaluating(self._model):
            tokens = torch.tensor([list(ids)], device=self._cache.device)
            hidden = self._model.hidden(tokens, cache=self._cache)
            self._cache.advance(len(ids))
            return self._model.logits(hidden[:, -1]).float()
