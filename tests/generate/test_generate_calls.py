"""`LanguageModel` draws from the engine what the plain loop gives, with no more memory."""

from __future__ import annotations

import pytest
import torch

from langwright.base import UserError
from langwright.generate import (
    Guidance,
    LanguageModel,
    Sampling,
    calls,
    generate_tokens,
    own_text,
)
from langwright.generate.engine_memory import free_bytes

PROMPTS = ["abc", "", "d e f g", "a" * 46, "abc", "b" * 80]
SETTINGS = [
    Sampling(temperature=0.0, max_tokens=20),
    Sampling(temperature=0.9, top_k=9, max_tokens=20, seed=11),
    Sampling(temperature=1.1, repetition_penalty=1.3, min_p=0.05, max_tokens=9, seed=3),
    Sampling(temperature=1.3, max_tokens=20, seed=1, stop=["d", "ab"], min_tokens=2),
]


@pytest.fixture
def double(lm):
    """In double precision: rounding decides nothing."""
    lm.model.double()
    lm.model.compute_dtype = torch.float64
    lm.notice = lambda _: None
    return lm


@pytest.mark.parametrize("sampling", SETTINGS)
@pytest.mark.parametrize("logprobs", [False, True])
def test_answers_are_those_of_the_plain_loop(double, sampling, logprobs):
    tokenizer = double.tokenizer
    prompts = [tokenizer.encode(text) for text in PROMPTS]
    wanted = generate_tokens(
        double.model,
        prompts,
        sampling,
        tokenizer.stop_ids,
        tokenizer=tokenizer,
        logprobs=logprobs,
    )
    found = double.complete_ids(prompts, sampling, logprobs=logprobs)
    for one, other in zip(found, wanted, strict=True):
        if one.logprobs is not None:
            assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)
            one.logprobs = other.logprobs
        assert one == other  # ids, text, reason, counts and what was cropped
    assert (wanted[5].cropped > 0 and wanted[0].ids != wanted[4].ids) or sampling.temperature == 0


def test_streams_are_those_of_the_plain_loop(double):
    for sampling in SETTINGS:
        values = sampling.model_dump(exclude_unset=True)
        for text in PROMPTS:
            wanted = double.complete([text], sampling)[0].text
            assert "".join(double.stream(text, **values)) == wanted


def test_the_model_is_left_as_it_was_even_when_abandoned(lm):
    model = lm.model
    model.train()
    model.blocks[0].eval()
    before = [module.training for module in model.modules()]
    greedy = SETTINGS[0].replace(ignore_eos=True)
    reference = lm.complete_ids([[1, 2]], greedy)[0].ids
    assert [module.training for module in model.modules()] == before
    steps = calls.events(lm, [1, 2], greedy)
    assert next(steps).token == reference[0]
    assert [module.training for module in model.modules()] == before  # between two tokens
    assert torch.is_grad_enabled()
    loss = model(torch.tensor([[1, 2]]))[0].sum()
    loss.backward()  # nothing cached during generation breaks training
    assert [event.token for event in steps] == reference[1:]


def test_weights_may_change_between_calls(lm):
    first = lm.complete_ids([[1, 2, 3]], SETTINGS[0])[0].ids
    with torch.no_grad():
        for parameter in lm.model.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
            )
    changed = lm.complete_ids([[1, 2, 3]], SETTINGS[0])[0].ids
    assert changed != first
    assert (
        changed == generate_tokens(lm.model, [[1, 2, 3]], SETTINGS[0], lm.tokenizer.stop_ids)[0].ids
    )


def test_more_prompts_than_grow_at_a_time(double, monkeypatch):
    monkeypatch.setattr(calls, "MOST_TEXTS", 3)
    prompts = [[1 + number % 9] * (1 + number % 7) for number in range(17)]
    stop_ids = double.tokenizer.stop_ids
    wanted = generate_tokens(double.model, prompts, SETTINGS[1], stop_ids)
    assert [one.ids for one in double.complete_ids(prompts, SETTINGS[1])] == [
        one.ids for one in wanted
    ]
    assert double.complete_ids([], SETTINGS[1]) == []


def test_memory_is_what_the_call_needs(lm, monkeypatch):
    engine = calls.engine_for(lm, [20, 40], SETTINGS[0])
    assert engine.stats().cache_pages == 4 + 5  # of 16 tokens: 2 and 3, and two to spare each
    engine = calls.engine_for(lm, [40] * 100, SETTINGS[0])
    assert engine.stats().cache_pages == 64 * 5
    each = engine.stats().cache_bytes // (64 * 5 + 2)
    monkeypatch.setattr(calls, "free_bytes", lambda _: 40 * each)
    assert calls.engine_for(lm, [40] * 100, SETTINGS[0]).stats().cache_pages == 18
    monkeypatch.setattr(calls, "free_bytes", lambda _: 0)
    assert calls.engine_for(lm, [40] * 100, SETTINGS[0]).stats().cache_pages == 5
    assert free_bytes(lm.model.device) > 0


def test_settings_of_the_engine_work_here_too(lm):
    negative = [3, 4, 5]
    plain = lm.complete_ids([[1, 2, 3]], SETTINGS[0])[0]
    guided = SETTINGS[0].replace(guidance=Guidance(scale=3.0, negative=negative))
    assert lm.complete_ids([[1, 2, 3]], guided)[0].ids != plain.ids
    found = lm.complete_ids([[1, 2, 3]], Sampling(beam={"beams": 3}, max_tokens=20))[0]
    assert found.score is not None
    best = SETTINGS[1].replace(best_of=4, logprobs=0)
    chosen = lm.complete_ids([[1, 2, 3]], best)[0]
    first = lm.complete_ids([[1, 2, 3]], best.replace(best_of=None))[0]
    mean = [sum(one.logprobs) / len(one.logprobs) for one in (chosen, first)]
    assert mean[0] >= mean[1]
    with pytest.raises(UserError, match="one answer per prompt"):
        lm.complete_ids([[1]], Sampling(n=2))


def test_what_the_model_raises_is_raised(lm, monkeypatch):
    with pytest.raises(UserError, match="no token may come next"):
        lm.complete_ids([[1]], SETTINGS[0].replace(bad_ids=[[token] for token in range(16)]))

    def broken(*_, **__):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(lm.model, "hidden", broken)
    with pytest.raises(RuntimeError, match="no such kernel"):
        lm.complete_ids([[1], [2]], SETTINGS[0])
    with pytest.raises(RuntimeError, match="no such kernel"):
        list(calls.events(lm, [1], SETTINGS[0]))
    bare = LanguageModel(lm.model, None)
    with pytest.raises(UserError, match="empty prompt"):
        bare.complete_ids([[]], SETTINGS[0])


def test_own_text_has_the_tokens_asked_for(lm):
    text = own_text(lm, 300, seed=4)
    assert text == own_text(lm, 300, seed=4) != own_text(lm, 300, seed=5)
    assert set(text) <= set(range(16)) and text[0] == lm.tokenizer.eos_id
