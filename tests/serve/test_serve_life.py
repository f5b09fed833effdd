"""Full queues, deadlines, clients that leave, and steps that fail."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from serve_small import LONG, ask, engine, events, listening, slow_down, until

from langwright.generate import Engine
from langwright.serve import ServeConfig
from langwright.serve.errors import ApiError
from langwright.serve.queue import Admission


class Gate:
    """Holds an engine's steps until it is opened."""

    def __init__(self, one: Engine) -> None:
        self.open = threading.Event()
        self.steps = 0
        step = one.step

        def gated() -> Any:
            self.open.wait(30)
            self.steps += 1
            return step()

        one.step = gated  # type: ignore[method-assign]


def test_a_full_queue_says_when_to_come_back() -> None:
    one = engine(max_running=2)
    gate = Gate(one)
    with listening(one, ServeConfig(queue_requests=1)) as url, ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(ask, url) for _ in range(3)]
        until(lambda: "langwright_open_answers 3" in httpx.get(url + "/metrics").text)
        refused = ask(url)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "queue_full"
        assert 1 <= int(refused.headers["retry-after"]) <= 120
        assert ask(url, n=4, best_of=4).status_code == 400  # that would never fit
        assert httpx.get(url + "/health").status_code == 200
        gate.open.set()
        assert [one.result().status_code for one in waiting] == [200, 200, 200]
        assert ask(url).status_code == 200
        text = httpx.get(url + "/metrics").text
        assert 'rejected_total{reason="queue_full"} 1' in text
        assert 'requests_total{route="completions",outcome="done"} 4' in text


def test_the_queue_counts_tokens_and_keys() -> None:
    queue = Admission(ServeConfig(queue_tokens=100, key_requests=3, queue_requests=10), 2)
    first = queue.enter("a", 2)
    queue.add_tokens(first, 500)  # alone: whatever its length
    second = queue.enter("a", 1)
    with pytest.raises(ApiError, match="too many tokens") as caught:
        queue.add_tokens(second, 1)
    assert caught.value.status == 429
    queue.started(first)
    queue.add_tokens(second, 60)
    with pytest.raises(ApiError, match="this key"):
        queue.enter("a", 1)
    third = queue.enter("b", 1)
    queue.add_tokens(third, 40)
    assert (queue.answers, queue.waiting_tokens) == (4, 100)
    for place in (first, second, third, third):
        queue.leave(place)
    assert (queue.answers, queue.waiting_tokens) == (0, 0)
    queue.draining = True
    with pytest.raises(ApiError) as caught:
        queue.enter("a", 1)
    assert caught.value.status == 503 and "retry-after" in caught.value.headers

    queue.draining = False
    with pytest.raises(ApiError, match="a key may have 3") as caught:
        queue.enter("a", 4)
    assert caught.value.status == 400  # it would never fit, however long the client waits


def test_when_to_come_back_follows_the_time_of_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of the test's own; the past weighs nine tenths."""
    clock = SimpleNamespace(now=0.0, monotonic=lambda: clock.now)
    monkeypatch.setattr("langwright.serve.queue.time", clock)
    queue = Admission(ServeConfig(queue_requests=100), 2)
    assert queue.retry_after() == 1.0
    place, untimed = queue.enter("a", 1), queue.enter("a", 1)
    clock.now = 101.0
    queue.leave(place)
    assert queue.retry_after() == pytest.approx(0.9 * 1 + 0.1 * 101)
    clock.now = 501.0
    queue.leave(place)  # a second time, and one that tells nothing
    queue.leave(untimed, timed=False)
    assert queue.retry_after() == pytest.approx(11.0)
    assert not queue._by_key  # keys that are gone take no memory
    queue.enter("a", 6)  # two are written at a time: four wait, two waves
    assert queue.retry_after() == pytest.approx(22.0)
    queue.enter("a", 36)
    assert queue.retry_after() == 120


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_frees_the_slot_within_a_step(stream: bool) -> None:
    one = engine(max_running=1)
    gate = Gate(one)
    with listening(one, ServeConfig()) as url:
        with (
            httpx.Client(timeout=0.3) as client,
            pytest.raises(httpx.ReadTimeout),
        ):
            client.post(url + "/v1/completions", json={"prompt": "x", "stream": stream, **LONG})
        until(lambda: "disconnects_total 1" in httpx.get(url + "/metrics").text)
        before = gate.steps
        gate.open.set()
        until(lambda: not one.busy)
        assert gate.steps - before <= 2  # the step that was held, and the one after
        assert one.stats().generated_tokens <= 1
        assert one.stats().cache_used_pages == 0
        assert ask(url).status_code == 200


def test_who_leaves_amid_a_stream() -> None:
    one = engine(max_running=2)
    with listening(one, ServeConfig()) as url:
        chunks = events(url, **LONG)
        next(chunks)
        chunks.close()
        until(lambda: not one.busy)
        assert one.stats().finished == {"cancelled": 1}
        assert one.stats().generated_tokens < 400


def test_no_first_token_in_time() -> None:
    one = engine()
    gate = Gate(one)
    with listening(one, ServeConfig(first_token_seconds=0.2)) as url:
        late = ask(url)
        assert late.status_code == 503 and late.json()["error"]["code"] == "timeout"
        assert "retry-after" in late.headers
        gate.open.set()
        until(lambda: not one.busy)
        assert ask(url).status_code == 200


def test_an_answer_that_takes_too_long_is_cut() -> None:
    one = engine()
    slow_down(one)
    with listening(one, ServeConfig(total_seconds=0.5)) as url:
        cut = ask(url, **LONG)
        assert cut.status_code == 200
        assert cut.json()["choices"][0]["finish_reason"] == "length"
        assert 1 <= cut.json()["usage"]["completion_tokens"] < 100
        streamed = list(events(url, **LONG))
        assert streamed[-1] == "[DONE]"
        assert streamed[-2]["choices"][0]["finish_reason"] == "length"


def test_a_silent_stream_says_that_it_is_there() -> None:
    one = engine()
    gate = Gate(one)
    with listening(one, ServeConfig(ping_seconds=0.05)) as url:
        body = {"prompt": "x", "stream": True, "max_tokens": 2}
        with httpx.stream("POST", url + "/v1/completions", json=body, timeout=10) as reply:
            lines = reply.iter_lines()
            assert next(lines) == ": still here"
            gate.open.set()
            assert list(lines)[-2] == "data: [DONE]"


def test_a_failing_pass_fails_only_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    one = engine()
    logits = one.model.logits

    def breaks(vectors: Any) -> Any:
        if one.stats().running == 1 and poisoned.is_set():
            raise RuntimeError("secret of the machine")
        return logits(vectors)

    poisoned = threading.Event()
    monkeypatch.setattr(one.model, "logits", breaks)
    with listening(one, ServeConfig()) as url:
        poisoned.set()
        bad = ask(url)
        assert bad.status_code == 500 and "secret" not in bad.text
        assert bad.headers["x-should-retry"] == "false"
        poisoned.clear()
        chunks = events(url, **LONG)
        next(chunks)
        poisoned.set()
        last = list(chunks)[-1]
        assert last["error"]["code"] == "engine_error" and "secret" not in str(last)
        poisoned.clear()
        assert ask(url).status_code == 200
        assert httpx.get(url + "/health").status_code == 200


def test_a_step_that_raises_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = engine()
    step, left = one.step, [1]

    def breaks() -> Any:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("once")
        return step()

    one.step = breaks  # type: ignore[method-assign]
    with listening(one, ServeConfig()) as url:
        assert ask(url).status_code == 500
        assert ask(url).status_code == 200


def test_an_engine_that_is_past_help_is_given_up() -> None:
    one = engine()

    def breaks() -> Any:
        raise RuntimeError("always")

    one.step = breaks  # type: ignore[method-assign]
    with listening(one, ServeConfig()) as url:
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda _: ask(url).status_code, range(3)))
        assert set(found) <= {500, 503}
        assert httpx.get(url + "/health").status_code == 503
        assert httpx.get(url + "/ready").status_code == 503
        body = {"input": "x"}
        assert httpx.post(url + "/v1/embeddings", json=body).status_code == 503
        assert ask(url).status_code == 503


def test_health_tells_a_step_that_hangs() -> None:
    one = engine()
    gate = Gate(one)
    with listening(one, ServeConfig(stuck_seconds=0.1)) as url, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, url)
        until(lambda: httpx.get(url + "/health").status_code == 503)
        gate.open.set()
        assert waiting.result().status_code == 200
        assert httpx.get(url + "/health").status_code == 200


def test_events_of_one_step_keep_their_order() -> None:
    """With guesses accepted, a step gives several tokens of one text."""
    one = engine(speculate="ngram", speculate_tokens=6)
    with listening(one, ServeConfig()) as url:
        body = {"prompt": "abcabcabc" * 6, "temperature": 0, "max_tokens": 200, "ignore_eos": True}
        body["logprobs"] = 0
        whole = ask(url, **body).json()["choices"][0]
        found = [chunk["choices"][0] for chunk in list(events(url, **body))[:-1]]
        assert "".join(one["text"] for one in found) == whole["text"]
        streamed = [value for one in found for value in one["logprobs"]["token_logprobs"]]
        assert streamed == pytest.approx(whole["logprobs"]["token_logprobs"], abs=1e-4)
        assert one.stats().accepted_tokens > 10
