"""Requests come, go, fail and wait without touching one another."""

from __future__ import annotations

import random
import threading
import time

import pytest
import torch
from engine_cases import GREEDY, V, check_empty, engine_of, preset, prompts_of, random_model

from langwright.base import UserError
from langwright.generate import (
    Engine,
    EngineConfig,
    Event,
    LanguageModel,
    SamplingParams,
    generate_several,
    generate_tokens,
)

LONG = GREEDY.replace(max_tokens=40)


@pytest.fixture(scope="module")
def model():
    return random_model(preset("llama-2m"), torch.float64)


def run(engine, *requests):
    """Step until these have finished."""
    for _ in range(1000):
        if all(request.finished for request in requests):
            return
        engine.step()
    raise AssertionError("the engine does not come to an end")


def ids_of(request):
    return request.result().answers[0].ids


class TestEvents:
    def test_stream_gives_what_the_answer_holds(self, lm, tokenizer):
        engine = Engine(lm, EngineConfig(block_tokens=4))
        params = SamplingParams(temperature=1.5, seed=2, max_tokens=30, logprobs=2, ignore_eos=True)
        prompt = tokenizer.encode("abc de")
        whole = engine.generate([prompt], params)[0].answers[0]
        stop = whole.text[8:11]
        params = params.replace(stop=[stop])
        wanted = generate_tokens(
            lm.model, [prompt], params, tokenizer.stop_ids, tokenizer=tokenizer
        )
        events = list(engine.stream(prompt, params))
        assert "".join(event.text for event in events) == wanted[0].text
        assert stop not in wanted[0].text and len(wanted[0].text) <= 8
        assert [event.token for event in events] == wanted[0].ids
        assert [event.logprob for event in events] == pytest.approx(wanted[0].logprobs, abs=1e-5)
        assert [event.finish_reason for event in events] == [None] * (len(events) - 1) + ["stop"]
        assert all(len(event.top) == 2 for event in events)

    def test_a_stream_left_early_is_cancelled(self, model):
        engine = engine_of(model)
        stream = engine.stream([1, 2, 3], LONG)
        assert next(stream).token is not None
        assert engine.stats().running == 1
        stream.close()
        assert engine.stats().running == 0 and engine.stats().cache_used_pages == 0
        assert engine.stats().finished == {"cancelled": 1}

    def test_times_and_counts(self, model):
        engine = engine_of(model, step_tokens=32)
        before = time.monotonic()
        request = engine.submit(prompts_of(50)[0], GREEDY)
        run(engine, request)
        assert before <= request.arrived <= request.first_token <= request.ended
        stats = engine.stats()
        # 14 tokens: one from the prompt's second piece, 13 steps of one token.
        assert (stats.steps, stats.generated_tokens) == (15, 14)
        assert stats.prompt_tokens == 50
        result = request.result()
        assert (result.prompt_tokens, result.drawn_tokens, result.cached_tokens) == (50, 14, 0)


class TestSeveralAnswers:
    def test_n_answers_share_their_prompt(self, model):
        prompt = prompts_of(21)[0]
        params = SamplingParams(temperature=1.0, seed=5, max_tokens=12, n=4)
        engine = engine_of(model)
        output = engine.generate([prompt], params)[0]
        wanted = generate_several(model, [prompt], params)[0]
        assert [one.ids for one in output.answers] == [one.ids for one in wanted]
        assert len({tuple(one.ids) for one in output.answers}) == 4
        stats = engine.stats()
        assert (stats.reused_tokens, stats.prompt_tokens) == (3 * 20, 21 + 3)

    def test_best_of(self, model):
        prompt = prompts_of(9)[0]
        params = SamplingParams(temperature=1.0, seed=5, max_tokens=6, n=2, best_of=5)
        output = engine_of(model).generate([prompt], params)[0]
        wanted = generate_several(model, [prompt], params)[0]
        assert [one.ids for one in output.answers] == [one.ids for one in wanted]
        assert output.drawn_tokens == 30


class TestEnds:
    def test_cancelled_texts_leave_within_a_step(self, model):
        engine = engine_of(model, max_running=2)
        alone = engine_of(model).generate([[1, 2, 3]], LONG)[0].answers[0].ids
        events: list[Event] = []
        stays = engine.submit([1, 2, 3], LONG)
        goes = engine.submit([4, 5, 6], LONG, on_token=events.append)
        waits = engine.submit([7, 8, 9], LONG, on_token=events.append)
        for _ in range(3):
            engine.step()
        used = engine.stats().cache_used_pages
        engine.cancel(goes)
        engine.cancel(waits)
        engine.step()
        assert goes.finished and waits.finished and not stays.finished
        assert engine.stats().cache_used_pages < used
        ends = [event for event in events if event.finish_reason]
        assert [(one.request, one.finish_reason, one.token) for one in ends] == [
            (goes.id, "cancelled", None),
            (waits.id, "cancelled", None),
        ]
        assert len(ids_of(goes)) == 3 and ids_of(waits) == []
        run(engine, stays)
        assert ids_of(stays) == alone
        engine.cancel(stays)  # too late: nothing happens
        assert engine.step() == [] and stays.result().finish_reasons == ["length"]

    def test_deadline(self, model):
        engine = engine_of(model)
        late = engine.submit([1], LONG, deadline=time.monotonic() - 1)
        soon = engine.submit([2], LONG, deadline=time.monotonic() + 60)
        events = engine.step()
        assert late.finished and not soon.finished
        assert [(one.finish_reason, one.error) for one in events if one.request == late.id] == [
            ("cancelled", "deadline")
        ]

    def test_a_forward_that_raises_ends_its_own_texts(self, model):
        engine = engine_of(model)
        plain = engine._stepper.hidden

        def hidden(ids, cache, counts):
            if ids.shape[1] > 1 and bool((ids == 39).any()):
                raise RuntimeError("out of memory")
            return plain(ids, cache, counts)

        engine._stepper.hidden = hidden
        good, bad = engine.submit([1, 2, 3], LONG), engine.submit([39] * 30, LONG)
        run(engine, good, bad)
        assert bad.result().finish_reasons == ["error"] and bad.error == "out of memory"
        assert len(ids_of(good)) == 40 and good.error is None
        assert engine.stats().cache_used_pages == 0 and engine.stats().failures == 1

    def test_a_callback_that_raises_ends_its_request(self, model):
        engine = engine_of(model)

        def broken(event):
            raise ValueError("closed")

        bad, good = engine.submit([1], LONG, on_token=broken), engine.submit([2], LONG)
        run(engine, bad, good)
        assert bad.result().finish_reasons == ["error"] and "closed" in bad.error
        assert len(ids_of(bad)) == 1 and len(ids_of(good)) == 40

    def test_a_text_without_a_possible_token_ends_alone(self, model):
        engine = engine_of(model)
        stuck = GREEDY.replace(bad_ids=[[token] for token in range(V)])
        bad, good = engine.submit([1], stuck), engine.submit([2], GREEDY)
        run(engine, bad, good)
        assert bad.result().finish_reasons == ["error"] and "no token" in bad.error
        assert len(ids_of(good)) == 14

    def test_nan_reaches_nobody_else(self):
        """A text of NaNs ends; its blocks are neither found nor leave anything behind."""
        model = random_model(preset("llama-2m").replace(tied=False))
        with torch.no_grad():
            model.tokens.weight[39] = torch.nan
        least = engine_of(model, max_running=1).stats()
        each = least.cache_bytes // (least.cache_pages + 2)
        engine = engine_of(model, cache_bytes=each * 14, step_tokens=32)
        wanted = engine.generate([[1, 2, 3]], GREEDY)[0].answers[0].ids
        bad = [39] + prompts_of(38)[0]
        for _ in range(2):
            output = engine.generate([bad], GREEDY)[0]
            assert output.finish_reasons == ["error"] and output.cached_tokens == 0
        wide = engine_of(model, step_tokens=64)
        prompts = prompts_of(5, 13, 30, seed=3)
        fresh = [engine_of(model).generate([prompt], GREEDY)[0] for prompt in prompts]
        for outputs in (
            [engine.generate([prompt], GREEDY)[0] for prompt in prompts],
            wide.generate([[39] * 12, [39] * 8], GREEDY) and wide.generate(prompts, GREEDY),
        ):
            assert [one.answers[0].ids for one in outputs] == [one.answers[0].ids for one in fresh]
        assert engine.generate([[1, 2, 3]], GREEDY)[0].answers[0].ids == wanted


class TestOrder:
    def test_no_step_exceeds_the_budget_and_no_text_stands_still(self, model):
        """A long prompt is read in pieces; those being written get a token in every step."""
        engine = engine_of(model, step_tokens=8, max_running=4)
        sizes = []
        plan = engine._scheduler.plan
        engine._scheduler.plan = lambda: sizes.append(plan()) or sizes[-1]
        first = [engine.submit([token], LONG) for token in (1, 2)]
        engine.step()
        late = engine.submit(prompts_of(44)[0], GREEDY)
        while late.first_token is None:
            events = engine.step()
            assert {event.request for event in events} >= {one.id for one in first}
        totals = [sum(work.new for work in works) for works in sizes]
        assert max(totals) == 8 and totals[1:8] == [8] * 7  # 44 tokens, 6 beside the two

    def test_priority_then_arrival(self, model):
        engine = engine_of(model, max_running=1)
        requests = [
            engine.submit([token], GREEDY, priority=priority)
            for token, priority in ((1, 0), (2, 5), (3, 5), (4, -1))
        ]
        run(engine, *requests)
        order = sorted(requests, key=lambda one: one.ended)
        assert [one.id for one in order] == [1, 2, 0, 3]

    def test_salts_share_nothing(self, model):
        engine = engine_of(model)
        prompt = prompts_of(20)[0]
        found = []
        for salt in ("a", "b", "a"):
            request = engine.submit(prompt, GREEDY, salt=salt)
            run(engine, request)
            found.append(request.result().cached_tokens)
        assert found == [0, 0, 16]

    def test_forget(self, model):
        engine = engine_of(model)
        prompt = prompts_of(20)[0]
        engine.generate([prompt], GREEDY)
        assert engine.forget() == 8  # 33 tokens held, in full blocks of 4
        assert engine.generate([prompt], GREEDY)[0].cached_tokens == 0


class TestMistakes:
    def test_told_by_submit(self, model):
        engine = engine_of(model)
        with pytest.raises(UserError, match="longer than the model's context"):
            engine.submit([1] * 64, GREEDY)
        with pytest.raises(UserError, match="outside the model's vocabulary"):
            engine.submit([1, V], GREEDY)
        with pytest.raises(UserError, match="empty prompt"):
            engine.submit([], GREEDY)
        with pytest.raises(UserError, match="need the tokenizer"):
            engine.submit([1], GREEDY.replace(stop=["a"]))
        with pytest.raises(UserError, match="too little memory"):
            engine_of(model, cache_bytes=1000)
        with pytest.raises(UserError, match="draft model"):
            engine_of(model, speculate="draft")
        assert not engine.busy

    def test_little_memory_shortens_answers(self, model):
        stats = engine_of(model).stats()
        each = stats.cache_bytes // (stats.cache_pages + 2)
        engine = engine_of(model, cache_bytes=each * 7)  # 5 blocks of 4 tokens
        with pytest.raises(UserError, match="does not fit the memory"):
            engine.submit([1] * 20, GREEDY)
        output = engine.generate([[1] * 12], LONG)[0]
        assert len(output.answers[0].ids) == 8 and output.finish_reasons == ["length"]


class TestThreads:
    def test_many_threads_ask_one_steps(self, model):
        engine = engine_of(model, max_running=3)
        wanted = {token: engine_of(model).generate([[token]], GREEDY) for token in range(12)}
        halt = threading.Event()

        def steps():
            while not halt.is_set():
                if engine.wait_for_work(0.01):
                    engine.step()

        stepping = threading.Thread(target=steps)
        stepping.start()
        results = {}

        def ask(token):
            request = engine.submit([token], GREEDY)
            if token % 4 == 3:
                engine.cancel(request)
            assert request.wait(30)
            results[token] = request.result()

        asking = [threading.Thread(target=ask, args=(token,)) for token in range(12)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        halt.set()
        stepping.join()
        for token, result in results.items():
            if token % 4 != 3:
                assert result.answers[0].ids == wanted[token][0].answers[0].ids
            else:
                assert result.finish_reasons == ["cancelled"]
        assert len(results) == 12 and not engine.busy

    def test_two_threads_step(self, model):
        engine = engine_of(model, max_running=3)
        prompts = prompts_of(3, 9, 5, 12)
        wanted = [one.answers[0].ids for one in engine_of(model).generate(prompts, GREEDY)]
        found = {}

        def work(index):
            output = engine.generate([prompts[index]], GREEDY)[0]
            found[index] = output.answers[0].ids

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [found[index] for index in range(4)] == wanted


@pytest.mark.parametrize(("name", "pages"), [("llama-2m", 20), ("gemma-3-1b", 50)])
def test_nothing_is_lost_under_random_load(name, pages):
    """Requests of all lengths come and are cancelled at random, with memory for about two texts:
    each ends, those not cancelled with the answer that they have alone, and no page is missing."""
    model = random_model(preset(name), torch.float64)
    chance = random.Random(7)
    stats = engine_of(model).stats()
    each = stats.cache_bytes // (stats.cache_pages + 2)
    engine = engine_of(model, cache_bytes=each * (2 + pages), step_tokens=20, max_running=5)
    starts = prompts_of(30, 30, 30)
    asked = []
    for _ in range(40):
        prompt = chance.choice(starts)[: chance.randint(1, 30)]
        params = GREEDY.replace(max_tokens=chance.randint(1, 25))
        asked.append((prompt, params, engine.submit(prompt, params, priority=chance.randint(0, 2))))
        for _ in range(chance.randint(0, 3)):
            engine.step()
        if chance.random() < 0.3:
            engine.cancel(chance.choice(asked)[2])
    run(engine, *(request for _, _, request in asked))
    kept = [one for one in asked if one[2].result().finish_reasons == ["length"]]
    assert len(kept) >= 25
    wanted = generate_tokens(model, [one[0] for one in kept], [one[1] for one in kept])
    assert [ids_of(one[2]) for one in kept] == [one.ids for one in wanted]
    assert engine.stats().preemptions > 0 and engine.stats().reused_tokens > 100
    check_empty(engine)


def test_without_a_tokenizer_ids_go_in_and_out(model):
    engine = Engine(LanguageModel(model, None))
    assert engine.generate([[1, 2]], GREEDY)[0].answers[0].text == ""
