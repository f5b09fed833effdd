"""Contrastive search in the engine: token for token what the function of its own gives, alone and
beside others, with little memory, with shared beginnings, and until it is stopped."""

from __future__ import annotations

import random

import pytest
import torch
from engine_cases import (
    GREEDY,
    V,
    break_on,
    check_empty,
    engine_of,
    options,
    preset,
    prompts_of,
    random_model,
)

import langwright.generate.stepper as stepper
from langwright.base import UserError
from langwright.generate import (
    Beams,
    Guidance,
    SamplingParams,
    beam_search,
    contrastive_search,
    generate_tokens,
)
from langwright.generate.decoding.beam import BeamParams

PROMPTS = prompts_of(5, 21, 9)
ENDS = [7, 11]
MODELS = {
    **dict.fromkeys(("llama-2m", "gpt2-124m", "gemma-3-1b", "deepseek-v3"), preset),
    **dict.fromkeys(("latent-window", "fastest-window", "window-uneven-kinds"), options),
}
KINDS = {"usual": (0.6, 4), "few": (0.4, 2), "many": (0.9, 9), "one": (0.6, 1), "greedy": (0.0, 5)}


def model_of(name):
    return random_model(MODELS[name](name), torch.float64)


@pytest.fixture(scope="module", name="model")
def one_model():
    return model_of("llama-2m")


def asks(kind="usual", tokens=16, **more):
    alpha, k = KINDS[kind]
    more = {"stop_ids": ENDS, **more}
    return SamplingParams(penalty_alpha=alpha, top_k=k, max_tokens=tokens, **more)


def alone(model, prompt, params):
    """The answer of the function of its own."""
    return contrastive_search(
        model,
        prompt,
        k=params.candidates,
        alpha=params.penalty_alpha,
        max_tokens=params.max_tokens,
        stop_ids=params.stop_ids,
    )


def check(model, asked, outputs):
    """Every answer is that of the plain function for its request."""
    for (prompt, params), output in zip(asked, outputs, strict=True):
        answer = output.answers[0]
        if params.penalty_alpha is not None:
            wanted = alone(model, prompt, params)
            assert answer.ids == wanted
            assert (answer.stop_id is None) == (len(wanted) == params.max_tokens)
            assert output.drawn_tokens == len(wanted) + (answer.stop_id is not None)
        elif params.beam is not None:
            beams = BeamParams(**params.beam.model_dump(), max_tokens=params.max_tokens)
            assert answer.ids == beam_search(model, prompt, beams, params.stop_ids)[0].ids
        elif params.guidance is None:
            assert answer.ids == generate_tokens(model, [prompt], params, seeds=[0])[0].ids


def mixed():
    """Searches of several kinds beside plain, guided and beam-searched texts."""
    searches = [(p, asks(kind)) for p, kind in zip(PROMPTS, ("usual", "few", "many"))]
    plain = [(prompt, GREEDY.replace(logprobs=None)) for prompt in prompts_of(3, 30, seed=8)]
    beams = SamplingParams(beam=Beams(beams=3), max_tokens=9, stop_ids=ENDS)
    guided = GREEDY.replace(logprobs=None, guidance=Guidance(scale=1.5, negative=[3, 4]))
    return [*searches, *plain, (PROMPTS[2], beams), (PROMPTS[0], guided), (PROMPTS[1], asks())]


def little(model, pages, **settings):
    """An engine with so many pages."""
    stats = engine_of(model).stats()
    each = stats.cache_bytes // (stats.cache_pages + 2)
    return engine_of(model, cache_bytes=each * (pages + 2), **settings)


def ask(engine, asked):
    outputs = engine.generate([prompt for prompt, _ in asked], [params for _, params in asked])
    check_empty(engine)
    return outputs


@pytest.mark.parametrize("kind", KINDS)
def test_alone(model, kind):
    for prompt in PROMPTS:
        asked = [(prompt, asks(kind))]
        check(model, asked, ask(engine_of(model), asked))


def test_the_penalty_matters(model):
    """Else the other tests would say nothing of it."""
    greedy = [alone(model, prompt, asks("greedy", stop_ids=[])) for prompt in PROMPTS]
    assert all(alone(model, p, asks(stop_ids=[])) != one for p, one in zip(PROMPTS, greedy))
    plain = GREEDY.replace(logprobs=None, max_tokens=16)
    assert [generate_tokens(model, [p], plain)[0].ids for p in PROMPTS] == greedy


@pytest.mark.parametrize("name", MODELS)
def test_beside_others(name):
    model, asked = model_of(name), mixed()
    check(model, asked, ask(engine_of(model, step_tokens=40, max_running=8), asked))


@pytest.mark.parametrize("name", ["longrope-window", "ntk"])
def test_up_to_where_the_angles_change(name):
    """Beyond 16 tokens these models turn all tokens otherwise: the answer ends there."""
    model = random_model(options(name), torch.float64)
    asked = [(prompt, asks(kind, stop_ids=[])) for prompt, kind in zip(prompts_of(5, 9, 15), KINDS)]
    outputs = ask(engine_of(model, step_tokens=7, max_running=6), [*asked, *mixed()[3:7]])
    for (prompt, params), output in zip(asked, outputs):
        assert output.answers[0].ids == alone(model, prompt, params)
        assert len(prompt + output.answers[0].ids) == 16
    for ids in (prompts_of(16)[0], prompts_of(21)[0]):
        with pytest.raises(UserError, match="otherwise"):
            engine_of(model).submit(ids, asks())
        with pytest.raises(UserError, match="otherwise"):
            contrastive_search(model, ids)


@pytest.mark.parametrize("step_tokens", [3, 7])
def test_prompts_in_pieces(model, step_tokens):
    """The vectors of all pieces are there, in their order."""
    asked = mixed()
    check(model, asked, ask(engine_of(model, step_tokens=step_tokens, max_running=3), asked))


@pytest.mark.parametrize("reuse", [True, False])
def test_with_little_memory(model, reuse):
    """Members give way to one another and to others, and are read again, vectors and all."""
    engine = little(model, 22, prefix_reuse=reuse, step_tokens=30, max_running=6)
    asked = mixed()
    check(model, asked, ask(engine, asked))
    assert engine.stats().preemptions > 0


@pytest.mark.parametrize("seed", range(6))
def test_members_that_give_way_at_any_time(model, seed):
    """Held ones, half-read ones, all at once: the vectors are always there when they are needed."""
    chance = random.Random(seed)
    reuse = bool(seed % 2)
    engine = engine_of(model, prefix_reuse=reuse, step_tokens=12, max_running=4)
    asked = [(prompt, asks(kind)) for prompt, kind in zip(PROMPTS, ("usual", "few", "usual"))]
    requests = [engine.submit(*one) for one in asked]
    while engine.busy:
        engine.step()
        some = chance.choice([0.0, 0.0, 0.2, 0.8, 1.0])
        for text in list(engine._scheduler.running):
            if chance.random() < some and engine.stats().preemptions < 150:
                engine._scheduler._preempt(text)
    check(model, asked, [request.result() for request in requests])
    assert engine.stats().preemptions > 20
    check_empty(engine)


@pytest.mark.parametrize("name", ["gemma-3-1b", "window-uneven-kinds"])
def test_windows_with_little_memory(name):
    model = model_of(name)
    asked = [(prompt, asks(kind)) for prompt in PROMPTS for kind in ("usual", "few")]
    pages = 0
    for pages in range(20, 900, 10):
        try:
            requests = [little(model, pages).submit(*one) for one in asked]
        except UserError:
            continue
        if all(one.texts[0].output.limit == 16 for one in requests):
            break
    engine = little(model, pages, max_running=6)
    check(model, asked, ask(engine, asked))
    assert engine.stats().preemptions > 0


@pytest.mark.parametrize("reuse", [True, False])
def test_vectors_go_with_the_memory_and_come_back(model, reuse):
    """An earlier request takes everything amid the answer: the search has nothing left, is read
    again, and goes on as if nothing had been."""
    params = asks(stop_ids=[])
    engine = engine_of(model, prefix_reuse=reuse)
    request = engine.submit(PROMPTS[1], params)
    for _ in range(6):
        engine.step()
    team = request.texts[0].team
    assert engine.stats().vector_bytes >= 4 * model.config.width * (21 + 4)
    for text in sorted(team.texts, key=lambda one: -one.rank):
        assert engine.stats().vector_bytes > 0
        engine._scheduler._preempt(text)
    assert engine.stats().vector_bytes == 0 and engine.stats().cache_used_pages == 0
    engine.forget()
    before = engine.stats().prompt_tokens
    while not request.finished:
        engine.step()
    assert request.result().answers[0].ids == alone(model, PROMPTS[1], params)
    assert team.kept_bytes == 0 and not team.logits  # whoever keeps the request keeps no vectors
    # The first member has read all; the others waited for it, where texts share.
    again = engine.stats().prompt_tokens - before
    assert again == (21 if reuse else 21 * 4)
    check_empty(engine)


def test_a_known_beginning_is_read_for_its_vectors(model):
    """Others have left the prompt in the cache; its vectors are not there."""
    engine = engine_of(model)
    first = engine.generate([PROMPTS[1]], GREEDY)[0]
    before = engine.stats().prompt_tokens
    output = engine.generate([PROMPTS[1]], asks())[0]
    assert output.answers[0].ids == alone(model, PROMPTS[1], asks())
    assert output.cached_tokens == 0 and engine.stats().prompt_tokens == before + 21
    # What the search has read helps others.
    assert engine.generate([PROMPTS[1]], GREEDY)[0].cached_tokens == 20 and first.answers[0].ids


def test_forks_share_blocks_until_they_write(model):
    """Four candidates behind 21 tokens hold its five blocks together and at most two each."""
    engine = engine_of(model)
    engine.submit(PROMPTS[1], asks(stop_ids=[]))
    used = []
    vectors = 0
    while engine.busy:
        engine.step()
        used.append(engine.stats().cache_used_pages)
        vectors = max(vectors, engine.stats().vector_bytes)
    assert max(used) <= -(-(21 + 16) // 4) + 4
    assert engine.stats().steps == 17 and engine.stats().generated_tokens == 16
    assert vectors == (21 + 16) * model.config.width * 4  # no more than the text can need


def test_one_pass_for_a_token(model, monkeypatch):
    """All candidates of all texts go through the model together."""
    passes = []
    plain = stepper.run_group

    def counted(model, hidden, store, works):
        passes.append(len(works))
        return plain(model, hidden, store, works)

    monkeypatch.setattr(stepper, "run_group", counted)
    asked = [(prompt, asks(tokens=8, stop_ids=[])) for prompt in prompts_of(6, 6)]
    check(model, asked, ask(engine_of(model), asked))
    assert passes == [2] + [8] * 8


def test_an_8_bit_cache_is_forked_whole(model):
    params = asks("many", stop_ids=[])
    one, two = (
        ask(engine_of(model, cache_dtype="int8", block_tokens=size), [(PROMPTS[1], params)])[0]
        for size in (4, 1)
    )
    assert one.answers[0].ids == two.answers[0].ids


def test_the_same_in_any_batch_when_deterministic():
    model = random_model(preset("llama-2m"))
    asked = [(prompt, asks(stop_ids=[])) for prompt in PROMPTS]
    settings = {"deterministic": True, "block_tokens": 16}
    each = [ask(engine_of(model, **settings), [one])[0] for one in asked]
    together = ask(engine_of(model, **settings), [*asked, *mixed()])[: len(asked)]
    assert [one.answers[0].ids for one in together] == [one.answers[0].ids for one in each]


def test_guesses_leave_searches_alone(model):
    asked = [([1, 2, 3, 4] * 5, GREEDY.replace(logprobs=None)), *mixed()]
    engine = engine_of(model, speculate="ngram")
    check(model, asked, ask(engine, asked))
    assert engine.stats().proposed_tokens > 0


def test_a_cancelled_search_leaves_within_a_step(model):
    engine = engine_of(model)
    asked = [(prompt, params.replace(stop_ids=[])) for prompt, params in mixed()]
    requests = [engine.submit(prompt, params) for prompt, params in asked]
    for _ in range(4):
        engine.step()
    searches = [one for one in requests if one.params.penalty_alpha is not None]
    assert engine.stats().vector_bytes > 0
    for request in searches:
        engine.cancel(request)
    engine.step()
    assert all(one.finished and one.result().finish_reasons == ["cancelled"] for one in searches)
    assert engine.stats().vector_bytes == 0
    kept = [one for one in requests if one not in searches]
    while engine.busy:
        engine.step()
    check(
        model,
        [pair for pair, one in zip(asked, requests) if one in kept],
        [one.result() for one in kept],
    )
    check_empty(engine)


def test_nan_ends_a_search_and_leaves_nothing():
    """Token 39 is broken: as a part of the prompt, and as a candidate."""
    model = random_model(preset("llama-2m").replace(tied=False))
    with torch.no_grad():
        model.tokens.weight[39] = torch.nan
    engine = engine_of(model)
    asked = [([1, 39, 2], asks()), (PROMPTS[0], asks().replace(top_k=V))]
    outputs = ask(engine, [*asked, (prompts_of(4, seed=2)[0], GREEDY)])
    assert [one.finish_reasons for one in outputs] == [["error"], ["error"], ["length"]]
    assert "NaN" in outputs[0].error
    kept = [x for half in engine._stepper._store.kept for x in half]
    assert not any(bool(x[2:].isnan().any()) for x in kept)


def test_a_pass_that_fails_ends_its_search_only(model):
    engine = engine_of(model)
    break_on(engine, 39)
    outputs = ask(engine, [([39] * 12, asks()), (prompts_of(1, seed=2)[0], GREEDY)])
    assert [one.finish_reasons[0] for one in outputs] == ["error", "length"]
