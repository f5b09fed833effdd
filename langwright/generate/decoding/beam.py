"""Beam search and diverse beam search: likely whole texts rather than likely next tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from langwright.base import Config, UserError
from langwright.generate.modes import evaluating
from langwright.model import KVCache, Transformer


class BeamParams(Config):
    """How a beam search looks for a likely text."""

    beams: int = Field(default=4, ge=1, description="texts kept at each step")
    groups: int = Field(
        default=1, ge=1, description="parts of the beam that are made to differ; divides beams"
    )
    diversity: float = Field(
        default=0.5,
        ge=0.0,
        description="taken from a token's score for each earlier group's beam that chose it",
    )
    length_penalty: float = Field(
        default=1.0,
        description="texts are compared by log-probability / length ** this; 0 = the sum",
    )
    max_tokens: int = Field(default=64, ge=1, description="most tokens to generate")
    n: int = Field(default=1, ge=1, description="texts to give; at most beams")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.beams % self.groups:
            raise ValueError("groups must divide beams")
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
    size = params.beams // params.groups
    groups = [
        _Group(_first_only(size), _first_only(size), [[] for _ in range(size)])
        for _ in range(params.groups)
    ]
    cache, logprobs = _prefill(model, prompt, params.beams, len(prompt) + steps)
    for step in range(steps):
        parents: list[int] = []  # beam that each kept text continues
        chosen: list[int] = []  # tokens of the groups so far
        for number, group in enumerate(groups):
            rows = slice(number * size, (number + 1) * size)
            came = torch.bincount(
                torch.tensor(chosen, dtype=torch.int64), minlength=logprobs.shape[-1]
            )
            picked = _advance(group, logprobs[rows], came, params, stop_ids, step + 1)
            parents += [rows.start + parent for parent, _ in picked]
            chosen += [token for _, token in picked]
        if all(group.finished for group in groups) or step + 1 == steps:
            break
        cache.select(parents)
        logprobs = _forward(model, cache, torch.tensor(chosen)[:, None])
    return _best(groups, params, steps)


def _first_only(size: int) -> Tensor:
    """At the beginning all texts of a group are the same: one of them counts."""
    start = torch.full((size,), -torch.inf, dtype=torch.float64)
    start[0] = 0.0
    return start


def _advance(
    group: _Group,
    logprobs: Tensor,
    came: Tensor,
    params: BeamParams,
    stop_ids: Collection[int],
    length: int,
) -> list[tuple[int, int]]:
    """Continue one group by a token: logprobs (G, V), came (V,) how often a token was chosen.

    Gives the pairs (text, token) that the group keeps; a finished group keeps what it has.
    """
    size, vocab = logprobs.shape
    if group.finished:
        return [(row, 0) for row in range(size)]
    sums = group.sums[:, None] + logprobs  # (G, V)
    scores = group.scores[:, None] + logprobs - params.diversity * came
    # Of 2 G (more with several end tokens) continuations at least G go on.
    wanted = min(size * (1 + len(set(stop_ids))), size * vocab)
    best = scores.flatten().topk(wanted)
    kept: list[tuple[int, int]] = []
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
    return list(zip(rows, tokens))


def _best(groups: Sequence[_Group], params: BeamParams, steps: int) -> list[Hypothesis]:
    """The best texts of all groups, those that were cut included."""
    found: list[tuple[float, Hypothesis]] = []
    for group in groups:
        found += group.done
        if group.finished:
            continue
        for total, score, ids in zip(group.sums.tolist(), group.scores.tolist(), group.texts):
            if score > -torch.inf:
                cut = Hypothesis(ids, total, _score(total, len(ids), params), stop_id=None)
                found.append((_score(score, len(ids), params), cut))
    found.sort(key=lambda pair: -pair[0])
    return [hypothesis for _, hypothesis in found[: params.n]]


def _score(logprob: float, length: int, params: BeamParams) -> float:
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
