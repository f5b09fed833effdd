"""What is written for padding is lost, and guesses take no memory that is not there."""

from __future__ import annotations

import pytest
import torch
from engine_cases import (
    GREEDY,
    OPTIONS,
    check_exact,
    engine_of,
    options,
    preset,
    prompts_of,
    random_model,
)

from langwright.generate import NgramProposer, SamplingParams, generate_tokens
from langwright.generate.blocks import BlockPool, Digests
from langwright.generate.compiled import CompiledHidden
from langwright.generate.decoding.row import DecodingRow
from langwright.generate.output import Output
from langwright.generate.paged_cache import WASTE, ZEROS, Layout, TextPages
from langwright.generate.requests import Request, Text
from langwright.generate.scheduler import Limits, Scheduler

PROMPTS = prompts_of(3, 21, 9, 1, 33)


def pages_of(engine, page):
    """One page of keys and values in every layer of the store, with the factors if there are."""
    store = engine._stepper._store
    return [x[page] for half in (*store.kept, *store.factors) for x in half]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["llama-2m", "gpt2-124m"])
def test_the_page_of_zeros_is_never_written(name, static):
    """Ragged prompts, rows beyond the batch and pages beyond a text: padding of every kind."""
    model = random_model(preset(name))
    engine = engine_of(model, step_tokens=64, max_running=5)
    if static:
        engine._stepper.hidden = CompiledHidden(model, engine._stepper._store, compile=False)
    check_exact(model, PROMPTS, engine.generate(PROMPTS, GREEDY), 2e-4)
    assert all(not bool(x.any()) for x in pages_of(engine, ZEROS))
    assert any(bool(x.any()) for x in pages_of(engine, WASTE))  # there was padding


@pytest.mark.parametrize("kind", ["gemma-3-1b", "deepseek-v3"])
def test_nor_by_windows_and_latent_layers(kind):
    model = random_model(preset(kind))
    engine = engine_of(model, step_tokens=64, max_running=5, cache_dtype="int8")
    engine.generate(PROMPTS, GREEDY)
    assert all(not bool(x.any()) for x in pages_of(engine, ZEROS))
    assert any(bool(x.any()) for x in pages_of(engine, WASTE))


class Memory:
    """A scheduler over a few pages, and texts without a model."""

    def __init__(self, pages: int, name: str = "llama-2m") -> None:
        self.layout = Layout.of(preset(name), 4)
        self.pool = BlockPool(pages, 2)
        limits = Limits(4, 64, reuse=False, fixed=False, forks=True)
        self.scheduler = Scheduler(self.pool, self.layout, limits)

    def text(self, length: int, number: int = 0) -> Text:
        """A running text that holds all but the last of its tokens."""
        params = SamplingParams(temperature=0.0)
        row = DecodingRow(params, [1] * length, vocab_size=40, seed=0)
        request = Request(number, params, length)
        pages = TextPages(self.layout, [1] * length)
        text = Text(request, 0, Output(0, row, limit=50), pages, Digests(4), length)
        self.scheduler.add(text)
        (work,) = [one for one in self.scheduler.plan() if one.text is text]
        pages.length = work.new - 1
        return text


@pytest.mark.parametrize("name", ["llama-2m", "gemma-3-1b"])
@pytest.mark.parametrize("free", range(5))
def test_reserve_gives_what_there_is_room_for(name, free):
    """Exactly the tokens for which there are blocks; nobody gives way for guesses."""
    memory = Memory(60, name)
    first, second = memory.text(6, 0), memory.text(7, 1)
    each = sum(memory.layout.block_pages.values())
    while memory.pool.available > free * each:
        memory.pool.take("other", 1)
    left = memory.pool.available // each
    for text in (first, second):
        held = text.pages.room - text.pages.length  # 3 and 2 tokens in the blocks there are
        for wanted in (1, held, held + 1, held + 30):
            before = memory.pool.available
            room = text.pages.room - text.pages.length
            got = memory.scheduler.reserve(text, wanted)
            assert got == min(wanted, room + 4 * (before // each))
            assert text.pages.room >= text.pages.length + got
            taken = before - memory.pool.available
            assert taken == max(0, -(-(got - room) // 4)) * each
    assert memory.scheduler.running == [first, second] and memory.scheduler.preemptions == 0
    assert memory.pool.available == 0 if left < 8 else True


@pytest.mark.parametrize("pages", [12, 17, 19])
def test_every_guess_that_counts_is_written(pages, monkeypatch):
    """In each step with guesses the blocks reach as far as the tokens that may be accepted; so the
    cache holds what one pass over the text would give."""
    model = random_model(preset("llama-2m"), torch.float64)
    stats = engine_of(model).stats()
    each = stats.cache_bytes // (stats.cache_pages + 2)
    engine = engine_of(model, speculate="ngram", speculate_tokens=8, cache_bytes=each * (pages + 2))
    reserve, cut = engine._scheduler.reserve, []

    def watched(text, new):
        got = reserve(text, new)
        assert 1 <= got <= new and text.pages.room >= text.pages.length + got
        cut.append(new - got)
        return got

    monkeypatch.setattr(engine._scheduler, "reserve", watched)
    prompts = [[1, 2, 3, 4] * 5, [5, 6] * 6, [7, 8, 9] * 5]
    check_exact(model, prompts, engine.generate(prompts, GREEDY.replace(max_tokens=24)), 1e-5)
    assert engine.stats().accepted_tokens > 0
    assert any(cut)  # memory was short at least once


BROKEN = {  # families whose first embedding is no number, and the engine's settings
    "llama-2m": {},
    "gpt2-124m": {"cache_dtype": "int8"},
    "gemma-3-1b": {},
    "deepseek-v3": {},
    "mixtral-8x7b": {},
    "fastest-window": {},
    "smear-longrope": {},
    "longrope": {"step_tokens": 9},
    "guesses": {"speculate": "ngram"},
}


def without_first(name, first):
    """A model whose embedding of token 0 is `first`, and which never writes this token."""
    config = options(name) if name in OPTIONS else preset("llama-2m" if name == "guesses" else name)
    model = random_model(config.replace(tied=False))
    with torch.no_grad():
        model.tokens.weight[0] = first
        model.head.weight[0] = 0.0
    return model


@pytest.mark.parametrize(
    ("name", "broken"), [*((name, torch.nan) for name in BROKEN), ("llama-2m", torch.inf)]
)
def test_a_broken_embedding_harms_only_those_who_use_it(name, broken):
    """Token 0 has no numbers, and no text uses it: padding must not bring it in."""
    prompts = [[token or 1 for token in prompt] for prompt in PROMPTS]
    settings = {"max_running": 5, **BROKEN[name]}
    params = GREEDY.replace(max_tokens=10)
    found = []
    for first in (broken, 0.1):
        model = without_first(name, first)
        outputs = engine_of(model, **settings).generate([*prompts, [1, 2] * 6], params)
        plain = generate_tokens(model, prompts, params)
        found.append([one.answers[0].ids for one in outputs] + [one.ids for one in plain])
        assert [one.error for one in outputs] == [None] * 6
    assert found[0] == found[1] and not any(0 in ids for ids in found[0])


def test_nor_guesses_of_the_plain_loop():
    params, prompts = GREEDY.replace(max_tokens=12), [[1, 2, 3, 4] * 5, [5, 6, 7]]
    found = []
    for first in (torch.nan, 0.1):
        model = without_first("guesses", first)
        done = generate_tokens(model, prompts, params, proposer=NgramProposer(4))
        found.append([one.ids for one in done])
    assert found[0] == found[1] and not any(0 in ids for ids in found[0])
