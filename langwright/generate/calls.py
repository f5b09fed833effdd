"""The engine for one call of a `LanguageModel`: it has the memory that the call needs, and is gone
with it. So the model may be trained, moved or changed between two calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from langwright.base import UserError
from langwright.generate.answer_limit import start_id
from langwright.generate.engine import Engine, answer_seeds
from langwright.generate.engine_config import EngineConfig
from langwright.generate.engine_memory import free_bytes
from langwright.generate.language_model import LanguageModel
from langwright.generate.loop import cropped_tokens
from langwright.generate.output import Completion
from langwright.generate.paged_cache import RESERVED, Layout, page_bytes
from langwright.generate.params import SamplingParams
from langwright.generate.requests import Event, Request

MOST_TEXTS = 64  # that grow at a time


def complete(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], params: SamplingParams
) -> list[Completion]:
    """One answer to each prompt; what does not fit the context is left out at its beginning."""
    engine, requests = _ask(lm, prompts, params)
    while not all(request.finished for request in requests):
        engine.step()
    done = []
    for request, prompt in zip(requests, prompts, strict=True):
        _check(request)
        answer = request.result().answers[0]
        answer.cropped = max(1, len(prompt)) - request.prompt_tokens
        done.append(answer)
    return done


def events(lm: LanguageModel, prompt: Sequence[int], params: SamplingParams) -> Iterator[Event]:
    """The tokens of one answer as they come."""
    engine, (request,) = _ask(lm, [prompt], params)
    while not request.finished:
        for event in engine.step():
            if event.index == 0 and event.token is not None:
                yield event
    _check(request)


def _ask(
    lm: LanguageModel, prompts: Sequence[Sequence[int]], params: SamplingParams
) -> tuple[Engine, list[Request]]:
    """An engine to which all has been submitted."""
    if params.n > 1:
        raise UserError(
            "one answer per prompt here, but several are asked for",
            found=f"n = {params.n}",
            fix="use an Engine, or call generate_several",
        )
    context, seeds = lm.config.context_length, answer_seeds(prompts, [params] * len(prompts))
    asked = [list(prompt) or [start_id(lm)] for prompt in prompts]
    asked = [ids[cropped_tokens(len(ids), params.max_tokens, context) :] for ids in asked]
    engine = engine_for(lm, [min(context, len(ids) + params.max_tokens) for ids in asked], params)
    pairs = zip(asked, seeds, strict=True)
    return engine, [engine.submit(ids, params, seeds=own) for ids, own in pairs]


def engine_for(lm: LanguageModel, lengths: Sequence[int], params: SamplingParams) -> Engine:
    """An engine with memory for texts of these lengths, those that grow together; at most half of
    what is free, where the longest text needs no more."""
    config, plain = lm.config, EngineConfig()
    layout = Layout.of(config, plain.block_tokens)
    each = page_bytes(config, layout, lm.model.compute_dtype)
    # A block of each kind stays free for every text that runs.
    blocks = sum(layout.block_pages.values())
    needs = [(layout.blocks(length) + 2) * blocks * params.rows for length in sorted(lengths)]
    wanted = (sum(needs[-MOST_TEXTS:]) + RESERVED) * each
    least = (max(needs, default=2 * blocks) + RESERVED) * each
    budget = min(wanted, max(least, free_bytes(lm.model.device) // 2))
    rows = max(1, min(MOST_TEXTS, len(lengths) * (params.best_of or 1)))
    return Engine(lm, EngineConfig(max_running=rows, cache_bytes=max(least, budget)))


def _check(request: Request) -> None:
    """Raise what ended an answer."""
    if request.failure is not None:
        raise request.failure
