"""Beam search and diverse beam search: likely whole texts rather than likely next tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from langwright.base import UserError
from langwright.generate.modes import evaluating
from langwright.generate.params import Beams
from langwright.model import KVCache, Transformer

Move = tuple[int, int]  # the beam that is continued, and the token


class BeamParams(Beams):
    """How a beam search looks for a likely text."""

    max_tokens: int = Field(default=64, ge=1, description="most tokens to generate")
    n: int = Field(default=1, ge=1, description="texts to give; at most beams")

    @model_validator(mode="after")
    def _enough_beams(self) -> Self:
        if self.n > self.beams:
            raise ValueError("n must be at most beams")
        return self


@dataclass(frozen=True)
class Hypothesis:
    """One text that a beam search found."""

    ids: list[int]  # without the end token
    logprob: float  # nats: the model's, of all ids and the end token, without diversity
    score: float  # what texts are compared by
    stop_id: int | None  # None: it was cut at the most tokens


@dataclass
class _Group:
    """A part of the beam, G texts of which some may not be begun yet."""

    sums: Tensor  # (G,) log-probabilities, fp64; -inf: no such text yet
    scores: Tensor  # (G,) the same less the diversity penalties: what the beam is kept by
    texts: list[list[int]]
    done: list[tuple[float, Hypothesis]] = field(default_factory=list)  # (penalised score, text)
    finished: bool = False


def beam_search(
    model: Transformer,
    prompt: Sequence[int],
    params: BeamParams,
    stop_ids: Collection[int] = (),
) -> list[Hypothesis]:
    """The `params.n` best texts that follow `prompt`, the best first.

    Each step continues every text by every token and keeps the best of each group. A text that
    ends is put aside; a group is at its end when it has as many ended texts as beams and none that
    goes on scores better at its present length. Length counts the end token.

    With groups, group g chooses after groups 0 ... g-1 and pays `diversity` for each time one of
    their beams chose the same token at this step.

    Sources: Sutskever et al. 2014, section 3.2; Wu et al. 2016, section 7 (length); Vijayakumar
    et al. 2018, "Diverse beam search", equation 2 with Hamming diversity.
    """
    context = model.config.context_length
    if not 1 <= len(prompt) < context:
        raise UserError(
            "the prompt is empty or fills the model's context",
            found=f"{len(prompt)} tokens",
            expected=f"1 ... {context - 1}",
        )
    steps = min(params.max_tokens, context - len(prompt))
    search = BeamSearch(params, stop_ids, steps)
    cache, logprobs = _prefill(model, prompt, params.beams, len(prompt) + steps)
    while (moves := search.advance(logprobs)) is not None:
        cache.select([row if move is None else move[0] for row, move in enumerate(moves)])
        tokens = [0 if move is None else move[1] for move in moves]
        logprobs = _forward(model, cache, torch.tensor(tokens)[:, None])
    return search.best()[: params.n]


class BeamSearch:
    """The search itself, whoever runs the model: log-probabilities in, the next tokens out.

    Args:
        params: how to search.
        stop_ids: tokens that end a text.
        steps: most tokens of a text.
    """

    def __init__(self, params: Beams, stop_ids: Collection[int], steps: int) -> None:
        self.params, self.stop_ids, self.steps = params, frozenset(stop_ids), steps
        self._size = size = params.beams // params.groups
        self._groups = [
            _Group(_first_only(size), _first_only(size), [[] for _ in range(size)])
            for _ in range(params.groups)
        ]
        self._step = 0

    def advance(self, logprobs: Tensor) -> list[Move | None] | None:
        """One step.

        Args:
            logprobs: (beams, V) fp64, behind each beam's text; all alike in the first step. Rows of
                beams that have no text are not looked at, but must hold numbers.

        Returns:
            For each beam the beam that it continues from now on and by which token, or None where
            it has no text any more (another step may give it one). None in all: the end.
        """
        self._step += 1
        moves: list[Move | None] = []
        came = torch.zeros(logprobs.shape[-1], dtype=torch.int64)
        for number, group in enumerate(self._groups):
            start = number * self._size
            rows = logprobs[start : start + self._size]
            picked = _advance(group, rows, came, self.params, self.stop_ids, self._step)
            for row, token in picked:
                came[token] += 1
                moves.append((start + row, token))
            moves += [None] * (self._size - len(picked))
        if self._step == self.steps or all(group.finished for group in self._groups):
            return None
        return moves

    def best(self) -> list[Hypothesis]:
        """The texts of all groups, the best first, those that were cut included."""
        found: list[tuple[float, Hypothesis]] = []
        for group in self._groups:
            found += group.done
            if group.finished:
                continue
            for total, score, ids in zip(group.sums.tolist(), group.scores.tolist(), group.texts):
                if score > -torch.inf:
                    cut = Hypothesis(ids, total, _score(total, len(ids), self.params), stop_id=None)
                    found.append((_score(score, len(ids), self.params), cut))
        found.sort(key=lambda pair: -pair[0])
        return [hypothesis for _, hypothesis in found]


def _first_only(size: int) -> Tensor:
    """At the beginning all texts of a group are the same: one of them counts."""
    start = torch.full((size,), -torch.inf, dtype=torch.float64)
    start[0] = 0.0
    return start


def _advance(
    group: _Group,
    logprobs: Tensor,
    came: Tensor,
    params: Beams,
    stop_ids: Collection[int],
    length: int,
) -> list[Move]:
    """Continue one group by a token: logprobs (G, V), came (V,) how often a token was chosen.

    Gives the pairs (text, token) that the group keeps: none when it is at its end.
    """
    size, vocab = logprobs.shape
    if group.finished:
        return []
    sums = group.sums[:, None] + logprobs  # (G, V)
    scores = group.scores[:, None] + logprobs - params.diversity * came
    # Of 2 G (more with several end tokens) continuations at least G go on.
    wanted = min(size * (1 + len(set(stop_ids))), size * vocab)
    best = scores.flatten().topk(wanted)
    kept: list[Move] = []
    for rank, (score, place) in enumerate(zip(best.values.tolist(), best.indices.tolist())):
        row, token = divmod(place, vocab)
        if score == -torch.inf or len(kept) == size:
            break
        if token not in stop_ids:
            kept.append((row, token))
        elif rank < size:  # an end counts only among the best G
            total = float(sums[row, token])
            hypothesis = Hypothesis(
                group.texts[row], total, _score(total, length, params), stop_id=token
            )
            group.done.append((_score(score, length, params), hypothesis))
    group.done.sort(key=lambda pair: -pair[0])
    del group.done[size:]
    missing = size - len(kept)
    rows = [row for row, _ in kept] + [0] * missing
    tokens = [token for _, token in kept] + [0] * missing
    texts = [[*group.texts[row], token] for row, token in zip(rows, tokens)]
    gone = torch.arange(size) >= len(kept)
    group.sums = sums[rows, tokens].masked_fill(gone, -torch.inf)
    group.scores = scores[rows, tokens].masked_fill(gone, -torch.inf)
    group.texts = texts
    leading = _score(float(group.scores.max()), length, params)
    group.finished = not kept or (len(group.done) == size and group.done[-1][0] >= leading)
    return [] if group.finished else kept


def _score(logprob: float, length: int, params: Beams) -> float:
    return logprob / length**params.length_penalty


def _prefill(
    model: Transformer, prompt: Sequence[int], beams: int, capacity: int
) -> tuple[KVCache, Tensor]:
    """The prompt's cache in every row, and the log-probabilities (B, V) behind it."""
    device = next(model.parameters()).device
    cache = KVCache(model.config, 1, capacity, device, model.compute_dtype)
    logprobs = _forward(model, cache, torch.tensor([list(prompt)]))
    cache.select([0] * beams)
    return cache, logprobs.expand(beams, -1)


def _forward(model: Transformer, cache: KVCache, ids: Tensor) -> Tensor:
    """ids (B, T) behind those held -> log-probabilities (B, V) fp64 of the next token."""
    with evaluating(model):
        hidden = model.hidden(ids.to(cache.device), cache=cache)
        cache.advance(ids.shape[1])
        return model.logits(hidden[:, -1]).cpu().double().log_softmax(-1)
