"""Guided answers and beam searches in the engine: what the functions of their own give, token for
token, alone and beside others, with little memory and with shared beginnings."""

from __future__ import annotations

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

from langwright.base import UserError
from langwright.generate import (
    BeamParams,
    Beams,
    EngineConfig,
    Guidance,
    SamplingParams,
    Source,
    beam_search,
    generate_guided,
    generate_several,
    generate_tokens,
    guide_logits,
    row_seeds,
)
from langwright.generate.answer_limit import request_limit

PROMPTS = prompts_of(5, 21, 9)
NEGATIVE = prompts_of(11, seed=2)[0]
ENDS = [7, 11]
PLAIN = {"temperature": 0.0, "max_tokens": 16, "stop_ids": ENDS}
GUIDED = {
    "greedy": SamplingParams(**PLAIN, guidance=Guidance(scale=2.5, negative=NEGATIVE)),
    "drawn": SamplingParams(
        temperature=1.0,
        seed=4,
        max_tokens=16,
        stop_ids=ENDS,
        repetition_penalty=1.2,
        guidance=Guidance(scale=1.7, negative=NEGATIVE[:3]),
    ),
}
SEARCHES = {
    "beams": Beams(beams=4),
    "short": Beams(beams=3, length_penalty=0.0),
    "groups": Beams(beams=6, groups=3, diversity=1.0),
    "one": Beams(beams=1),
}
MODELS = {
    **dict.fromkeys(("llama-2m", "gpt2-124m", "gemma-3-1b", "deepseek-v3"), preset),
    **dict.fromkeys(("latent-window", "longrope-window", "window-uneven-kinds"), options),
}


def model_of(name):
    return random_model(MODELS[name](name), torch.float64)


@pytest.fixture(scope="module", name="model")
def one_model():
    return model_of("llama-2m")


def guided_alone(model, prompt, params, times=0):
    """`generate_guided` with the seed that the engine gives the prompt's `times`-th coming."""
    seed = row_seeds([params.seed or 0] * (times + 1), [prompt] * (times + 1))[times]
    scale = params.guidance.scale
    return generate_guided(
        Source(model, prompt),
        Source(model, params.guidance.negative),
        lambda own, other: guide_logits(own, other, scale),
        params.replace(guidance=None),
        seed=seed,
    )


def found_alone(model, prompt, params):
    beams = BeamParams(**params.beam.model_dump(), max_tokens=params.max_tokens, n=params.n)
    return beam_search(model, prompt, beams, params.stop_ids)


def search(name, n=1, tokens=12):
    return SamplingParams(beam=SEARCHES[name], n=n, max_tokens=tokens, stop_ids=ENDS)


def check_guided(model, prompt, params, output):
    want = guided_alone(model, prompt, params)
    answer = output.answers[0]
    assert (answer.ids, answer.stop_id) == (want.ids, want.stop_id)


def check_found(model, prompt, params, output):
    wanted = found_alone(model, prompt, params)
    assert [one.ids for one in output.answers] == [one.ids for one in wanted]
    assert [one.stop_id for one in output.answers] == [one.stop_id for one in wanted]
    assert [one.score for one in output.answers] == pytest.approx([one.score for one in wanted])
    ends = ["length" if one.stop_id is None else "stop" for one in wanted]
    assert output.finish_reasons == ends


def check(model, asked, outputs):
    """Each request (prompt, params) has the answer of the function of its own."""
    for (prompt, params), output in zip(asked, outputs, strict=True):
        if params.guidance is not None:
            check_guided(model, prompt, params, output)
        elif params.beam is not None:
            check_found(model, prompt, params, output)
        else:
            want = generate_tokens(model, [prompt], params, seeds=[0])[0]
            assert output.answers[0].ids == want.ids


def mixed():
    """Requests of all kinds."""
    searches = [(p, search(name, n=2)) for p, name in zip(PROMPTS, ("beams", "short", "groups"))]
    guided = [(prompt, GUIDED["greedy"]) for prompt in PROMPTS]
    plain = [(prompt, GREEDY.replace(logprobs=None)) for prompt in prompts_of(3, 30, seed=8)]
    return [*searches, *plain, *guided]


def little(model, pages, **settings):
    """An engine with so many pages."""
    stats = engine_of(model).stats()
    each = stats.cache_bytes // (stats.cache_pages + 2)
    return engine_of(model, cache_bytes=each * (pages + 2), **settings)


def ask(engine, asked):
    outputs = engine.generate([prompt for prompt, _ in asked], [params for _, params in asked])
    check_empty(engine)
    return outputs


@pytest.mark.parametrize("name", MODELS)
def test_guided_and_searched_and_plain_in_one_batch(name):
    model, asked = model_of(name), mixed()
    check(model, asked, ask(engine_of(model, step_tokens=40, max_running=8), asked))


@pytest.mark.parametrize("kind", GUIDED)
def test_guided_alone(model, kind):
    for prompt in PROMPTS:
        params = GUIDED[kind]
        output = ask(engine_of(model), [(prompt, params)])[0]
        check_guided(model, prompt, params, output)
        unguided = generate_tokens(model, [prompt], params.replace(guidance=None))[0]
        assert output.answers[0] != unguided


@pytest.mark.parametrize("kind", SEARCHES)
def test_searches_alone(model, kind):
    for prompt in PROMPTS:
        params = search(kind, n=SEARCHES[kind].beams)
        check_found(model, prompt, params, ask(engine_of(model), [(prompt, params)])[0])


@pytest.mark.parametrize("reuse", [True, False])
def test_with_little_memory(model, reuse):
    """Members give way to one another and to others, and are read again."""
    engine = little(model, 38, prefix_reuse=reuse, step_tokens=30, max_running=6)
    asked = mixed()
    check(model, asked, ask(engine, asked))
    assert engine.stats().preemptions > 0


@pytest.mark.parametrize("name", ["gemma-3-1b", "window-uneven-kinds", "longrope-window"])
def test_windows_with_little_memory(name):
    model, asked = model_of(name), mixed()
    least = next(pages for pages in range(20, 900, 10) if whole(little(model, pages), asked))
    engine = little(model, least, max_running=6)
    check(model, asked, ask(engine, asked))
    assert engine.stats().preemptions > 0


def whole(engine, asked):
    """Whether the memory is enough for each request alone."""
    try:
        return all(
            request_limit(engine.lm, prompt, params, engine._scheduler.fits) == params.max_tokens
            for prompt, params in asked
        )
    except UserError:
        return False


def test_members_that_give_way_to_each_other(model):
    """Two guided answers with memory for one: each half holds what the other half needs."""
    asked = [(prompt, GUIDED["greedy"].replace(stop_ids=[])) for prompt in prompts_of(14, 14)]
    engine = little(model, 17, step_tokens=8, max_running=2, prefix_reuse=False)
    outputs = ask(engine, asked)
    check(model, asked, outputs)
    assert engine.stats().preemptions > 0


@pytest.mark.parametrize("places", [1, 2])
def test_a_team_has_one_place(model, places):
    asked = mixed()
    engine = little(model, 60, max_running=places, step_tokens=5)
    check(model, asked, ask(engine, asked))


def test_beginnings_are_shared(model):
    """The prompt of a search is read once, and the other prompt of n answers too."""
    prompt = PROMPTS[1]
    engine = engine_of(model)
    ask(engine, [(prompt, search("groups"))])
    assert engine.stats().prompt_tokens == len(prompt)
    engine = engine_of(model)
    other = Guidance(scale=2.0, negative=prompt[:17])
    params = GUIDED["drawn"].replace(n=3, guidance=other, stop_ids=[])
    output = ask(engine, [(prompt, params)])[0]
    assert engine.stats().prompt_tokens == (21 + 2 * 1) + 1 * 3  # 16 tokens of the other are known
    assert len({tuple(one.ids) for one in output.answers}) == 3
    again = engine_of(model)
    first = again.generate([prompt], GREEDY)[0]
    assert again.generate([prompt], search("beams"))[0].cached_tokens == 20
    assert first.cached_tokens == 0


def test_forks_share_blocks_until_they_write(model):
    """Four beams behind a prompt of 21 tokens hold 5 blocks together and one or two each."""
    engine = engine_of(model)
    engine.submit(PROMPTS[1], search("beams", tokens=16).replace(stop_ids=[]))
    used = []
    while engine.busy:
        engine.step()
        used.append(engine.stats().cache_used_pages)
    assert max(used) <= 5 + 4 * 4 and max(used) < 4 * 9
    assert used[1] <= 5 + 4  # a copy of the last block for each at most


def test_copies_are_of_every_part_of_the_cache():
    """8-bit caches keep factors beside the values: a fork must have both."""
    model = random_model(preset("llama-2m"))
    params = search("beams", n=3)
    engine = engine_of(model, cache_dtype="int8")
    first = ask(engine, [(PROMPTS[1], params)])[0]
    unshared = engine_of(model, cache_dtype="int8", block_tokens=1)  # no block is ever split
    assert [one.ids for one in first.answers] == [
        one.ids for one in ask(unshared, [(PROMPTS[1], params)])[0].answers
    ]


def test_cancelled_teams_leave_within_a_step(model):
    engine = engine_of(model)
    requests = [engine.submit(prompt, params) for prompt, params in mixed()]
    for _ in range(4):
        engine.step()
    for request in requests:
        engine.cancel(request)
    engine.step()
    assert all(request.finished for request in requests)
    assert engine.stats().running == engine.stats().waiting == 0
    assert engine.stats().cache_used_pages == 0


def test_a_member_that_fails_ends_its_team_only(model):
    engine = engine_of(model)
    break_on(engine, 39)
    bad = Guidance(scale=2.0, negative=[39] * 30)
    asked = [
        (PROMPTS[0], GUIDED["greedy"].replace(guidance=bad)),
        ([39] * 12, search("beams", n=2)),
        (prompts_of(4, seed=2)[0], GREEDY),
    ]
    outputs = ask(engine, asked)
    assert [one.finish_reasons[0] for one in outputs] == ["error", "error", "length"]
    assert outputs[0].error == "out of memory" and engine.stats().failures == 2


def test_nan_ends_a_team_and_leaves_nothing():
    model = random_model(preset("llama-2m").replace(tied=False))
    with torch.no_grad():
        model.tokens.weight[39] = torch.nan
    engine = engine_of(model)
    bad = Guidance(scale=2.0, negative=[1, 39])
    asked = [
        (PROMPTS[0], GUIDED["greedy"].replace(guidance=bad)),
        ([1, 39, 2], search("beams", n=2)),
    ]
    outputs = ask(engine, asked)
    assert [one.finish_reasons for one in outputs] == [["error"], ["error"] * 2]
    kept = [x for half in engine._stepper._store.kept for x in half]
    assert not any(bool(x[2:].isnan().any()) for x in kept)


def test_guided_is_the_same_in_any_batch_when_deterministic():
    model = random_model(preset("llama-2m"))
    asked = [(prompt, GUIDED["drawn"]) for prompt in PROMPTS]
    settings = {"deterministic": True, "block_tokens": 16}
    alone = [ask(engine_of(model, **settings), [one])[0] for one in asked]
    together = ask(engine_of(model, **settings), [*asked, *mixed()])[: len(asked)]
    assert [one.answers[0].ids for one in together] == [one.answers[0].ids for one in alone]


def test_events_of_a_search_come_at_its_end(model):
    engine = engine_of(model)
    params = search("beams", n=2)
    events = list(engine.stream(PROMPTS[0], params))
    wanted = found_alone(model, PROMPTS[0], params)
    for index, one in enumerate(wanted):
        own = [event.token for event in events if event.index == index]
        assert own == one.ids + ([] if one.stop_id is None else [one.stop_id])
    assert sum(event.finish_reason is not None for event in events) == 2


def test_guesses_beside_teams(model):
    """Speculation leaves teams alone."""
    asked = [([1, 2, 3, 4] * 5, GREEDY.replace(logprobs=None)), *mixed()]
    engine = engine_of(model, speculate="ngram")
    check(model, asked, ask(engine, asked))
    assert engine.stats().proposed_tokens > 0


def test_several_and_the_best_of_several_with_guidance(model):
    params = GUIDED["drawn"].replace(n=2, best_of=5)
    output = ask(engine_of(model), [(PROMPTS[0], params)])[0]
    everything = ask(
        engine_of(model), [(PROMPTS[0], params.replace(n=5, best_of=None, logprobs=0))]
    )
    answers = everything[0].answers
    best = sorted(answers, key=lambda one: -sum(one.logprobs) / len(one.logprobs))[:2]
    assert [one.ids for one in output.answers] == [one.ids for one in best]
    assert answers[0].ids == guided_alone(model, PROMPTS[0], params).ids


def test_best_of_beside_teams(model):
    params = SamplingParams(temperature=1.0, seed=5, max_tokens=8, n=2, best_of=4)
    wanted = generate_several(model, [PROMPTS[2]], params)[0]
    outputs = ask(little(model, 40, max_running=3), [(PROMPTS[2], params), *mixed()])
    assert [one.ids for one in outputs[0].answers] == [one.ids for one in wanted]


def test_mistakes_are_told():
    for name, value in (("best_of", 3), ("stop", ["a"]), ("bad_ids", [[1]]), ("logprobs", 1)):
        with pytest.raises(UserError, match=name):
            SamplingParams.parse({"beam": {"beams": 2}, name: value})
    with pytest.raises(UserError, match="at most"):
        SamplingParams.parse({"beam": {"beams": 2}, "n": 3})
    with pytest.raises(UserError, match="divide"):
        SamplingParams.parse({"beam": {"beams": 4, "groups": 3}})
    model = random_model(preset("llama-2m"))
    for params in (GUIDED["greedy"], search("beams")):
        with pytest.raises(UserError, match="the engine's"):
            generate_tokens(model, [[1]], params)
    engine = engine_of(model)
    for negative, message in (([V], "outside the model's"), ([1] * 64, "longer"), ([], "empty")):
        params = GUIDED["greedy"].replace(guidance={"scale": 2.0, "negative": negative})
        with pytest.raises(UserError, match=message):
            engine.submit([1, 2], params)
    with pytest.raises(UserError, match="tokenizer"):
        params = GUIDED["greedy"].replace(guidance={"scale": 2.0, "negative": "no"})
        engine.submit([1, 2], params)


def test_the_context_of_both_prompts_bounds_a_guided_answer(model):
    params = GUIDED["greedy"].replace(
        guidance={"scale": 1.5, "negative": prompts_of(60)[0]}, stop_ids=[]
    )
    output = ask(engine_of(model), [(PROMPTS[0], params)])[0]
    assert len(output.answers[0].ids) == 4 and output.finish_reasons == ["length"]


def test_a_negative_text_is_read_as_a_prompt(lm):
    from langwright.generate import Engine

    engine = Engine(lm, EngineConfig(block_tokens=4))
    text = GUIDED["greedy"].replace(stop_ids=[], guidance={"scale": 2.0, "negative": "abc"})
    ids = text.replace(guidance={"scale": 2.0, "negative": lm.encode_prompt("abc")})
    one, two = engine.generate([[1, 2, 3]] * 2, [text, ids])
    assert one.answers[0] == two.answers[0] and one.answers[0].ids
