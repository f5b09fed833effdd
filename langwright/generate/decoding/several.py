"""Several answers to one prompt, and the best of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from langwright.base import seed_for
from langwright.generate.loop import generate_tokens
from langwright.generate.output import Completion
from langwright.generate.params import SamplingParams
from langwright.model import Transformer


def generate_several(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    stop_ids: Collection[int] = (),
    **options: Any,
) -> list[list[Completion]]:
    """`params.n` answers to each prompt: as drawn, or the best of `best_of`, the best first.

    `options` are those of `generate_tokens`.
    """
    children = fan_out(params)
    texts = [prompt for prompt in prompts for _ in children]
    settings = [child for _ in prompts for child in children]
    done = generate_tokens(model, texts, settings, stop_ids, **options)
    size = len(children)
    return [
        choose_best(done[start : start + size], params.n) for start in range(0, len(done), size)
    ]


def fan_out(params: SamplingParams) -> list[SamplingParams]:
    """The settings of each answer to draw: `best_of`, else `n`, with seeds of their own.

    The first keeps the request's seed, so it is the answer that n = 1 would give. Where the best
    are chosen, log-probabilities are asked for.
    """
    count = params.best_of or params.n
    changes: dict[str, object] = {"n": 1, "best_of": None}
    if count > params.n and params.logprobs is None:
        changes["logprobs"] = 0
    children = []
    for index in range(count):
        seed = params.seed
        if seed is not None and index > 0:
            seed = seed_for(seed, "answer", index)
        children.append(params.replace(**changes, seed=seed))
    return children


def choose_best(answers: Sequence[Completion], n: int) -> list[Completion]:
    """The n answers of the highest mean log-probability per token, the best first.

    Fewer than n or just n: as they came. The measure is that of the OpenAI API's `best_of`.
    """
    if len(answers) <= n:
        return list(answers)
    return sorted(answers, key=mean_logprob, reverse=True)[:n]


def mean_logprob(answer: Completion) -> float:
    """Nats per token, the end token included; minus infinity for an answer without tokens."""
    if not answer.logprobs:
        return -float("inf")
    return sum(answer.logprobs) / len(answer.logprobs)
