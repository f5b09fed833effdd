"""Beams, contrastive search and guidance over HTTP, through OpenAI's own client."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from serve_small import engine, language_model, listening

from langwright.generate import (
    BeamParams,
    Engine,
    EngineConfig,
    SamplingParams,
    beam_search,
    contrastive_search,
)
from langwright.serve import ServeConfig
from langwright.serve.config import ServeConfig as Settings
from langwright.serve.queue import Admission

openai = pytest.importorskip("openai", reason="needs the openai client")

HI = [{"role": "user", "content": "hi"}]
BEAM = {"beam": {"beams": 4, "groups": 2, "diversity": 0.7, "length_penalty": 0.5}}
CONTRAST = {"penalty_alpha": 0.6, "top_k": 5}
GUIDED = {"guidance": {"scale": 2.0, "negative": "Never"}}
WAYS = {"beam": BEAM, "contrast": CONTRAST, "guided": GUIDED}


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def from_engine(one: Engine, ids: list[int], **settings: Any) -> list[str]:
    """The answers of the engine itself, greedy where they are drawn."""
    params = SamplingParams(**{"temperature": 0.0, "top_p": 1.0, **settings})
    own = Engine(one.lm, EngineConfig())
    with one.paused():
        return [answer.text for answer in own.generate([ids], params)[0].answers]


def test_a_completion_is_found_by_beams(client: Any, small_engine: Engine) -> None:
    done = client.completions.create(
        model="tiny", prompt="Once", max_tokens=9, n=3, temperature=0, extra_body=BEAM
    )
    lm = small_engine.lm
    ids = lm.text_tokenizer.encode("Once")
    params = BeamParams(**BEAM["beam"], max_tokens=9, n=3)
    with small_engine.paused():
        found = beam_search(lm.model, ids, params, lm.text_tokenizer.stop_ids)
    wanted = [lm.text_tokenizer.decode(one.ids, skip_special=True) for one in found]
    assert [one.text for one in done.choices] == wanted
    assert [one.index for one in done.choices] == [0, 1, 2]
    assert done.usage.prompt_tokens == 4
    written = sum(len(one.ids) + (one.stop_id is not None) for one in found)
    assert done.usage.completion_tokens == written


def test_a_completion_is_found_by_contrast(client: Any, small_engine: Engine) -> None:
    lm, ids = small_engine.lm, list(b"Once and again")
    with small_engine.paused():
        wanted = contrastive_search(lm.model, ids, k=5, alpha=0.6, max_tokens=12)
    settings: dict[str, Any] = {"model": "tiny", "prompt": ids, "max_tokens": 12}
    done = client.completions.create(**settings, extra_body={**CONTRAST, "ignore_eos": True})
    text = lm.text_tokenizer.decode(wanted, skip_special=True)
    assert done.choices[0].text == text
    stop = text[4:6]
    done = client.completions.create(
        **settings, stop=stop, extra_body={**CONTRAST, "ignore_eos": True}
    )
    assert done.choices[0].text == text[: text.index(stop)]
    assert done.choices[0].finish_reason == "stop"


def test_a_completion_is_guided(client: Any, small_engine: Engine) -> None:
    """By a text, by ids, and not at all by the prompt itself."""
    ids = list(b"Once")
    for negative in ("Never", list(b"Never")):
        guidance = {"scale": 2.0, "negative": negative}
        done = client.completions.create(
            model="tiny",
            prompt="Once",
            max_tokens=9,
            temperature=0,
            extra_body={"guidance": guidance},
        )
        assert [done.choices[0].text] == from_engine(
            small_engine, ids, max_tokens=9, guidance=guidance
        )
    assert [done.choices[0].text] != from_engine(small_engine, ids, max_tokens=9)


@pytest.mark.parametrize("way", WAYS)
def test_a_chat_is_what_the_engine_gives(client: Any, small_engine: Engine, way: str) -> None:
    done = client.chat.completions.create(
        model="tiny", messages=HI, max_tokens=8, temperature=0, extra_body=WAYS[way]
    )
    chat = small_engine.lm.text_tokenizer.encode_chat(HI, add_generation_prompt=True)
    wanted = from_engine(small_engine, chat.ids, max_tokens=8, **WAYS[way])
    assert [one.message.content for one in done.choices] == wanted


@pytest.mark.parametrize("way", WAYS)
def test_streams_say_the_same(client: Any, way: str) -> None:
    """Chunks of the usual shape; those of beams come at the end."""
    n = 2 if way == "beam" else 1
    settings: dict[str, Any] = {"model": "tiny", "max_tokens": 8, "temperature": 0, "n": n}
    settings["extra_body"] = WAYS[way]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    whole = client.completions.create(prompt=["ab", "cd"], echo=True, **settings)
    texts, ends, usage = [""] * (2 * n), [None] * (2 * n), None
    for chunk in client.completions.create(prompt=["ab", "cd"], echo=True, **settings, **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [one.text for one in whole.choices]
    assert ends == [one.finish_reason for one in whole.choices]
    assert usage.completion_tokens == whole.usage.completion_tokens
    said = client.chat.completions.create(messages=HI, **settings)
    texts, roles = [""] * n, [0] * n
    for chunk in client.chat.completions.create(messages=HI, **settings, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            roles[choice.index] += choice.delta.role == "assistant"
    assert texts == [one.message.content for one in said.choices] and roles == [1] * n


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"beam": {"beams": 17}}, "beam.beams"),
        ({"beam": {"beams": 0}}, "beam.beams"),
        ({"beam": {"beams": "4"}}, "beam.beams"),
        ({"beam": {"beams": 4, "groups": 3}}, "beam"),
        ({"beam": {"num_beams": 4}}, "beam.num_beams"),
        ({"beam": {"beams": 4, "length_penalty": 1e300}}, "beam.length_penalty"),
        ({"beam": {"beams": 4, "diversity": -1}}, "beam.diversity"),
        ({"beam": 4}, "beam"),
        ({"beam": {"beams": 2}, "n": 3}, "n"),
        ({"beam": {"beams": 2}, "best_of": 2}, "best_of"),
        ({"beam": {"beams": 2}, "stop": "a"}, "stop"),
        ({"beam": {"beams": 2}, "logprobs": 1}, "logprobs"),
        ({"beam": {"beams": 2}, "min_p": 0.1}, "min_p"),
        ({"beam": {"beams": 2}, "top_k": 4}, "top_k"),
        ({"beam": {"beams": 2}, "presence_penalty": 0.5}, "presence_penalty"),
        ({"beam": {"beams": 2}, "logit_bias": {"3": 1}}, "logit_bias"),
        ({"beam": {"beams": 2}, "guidance": {"scale": 2.0}}, "guidance"),
        ({"beam": {"beams": 2}, "penalty_alpha": 0.6}, "penalty_alpha"),
        ({"beam": {"beams": 2}, "guided_regex": "a+"}, "guided_regex"),
        ({"beam": {"beams": 2}, "response_format": {"type": "json_object"}}, "response_format"),
        ({"penalty_alpha": 1.5}, "penalty_alpha"),
        ({"penalty_alpha": 0.6, "top_k": 17}, "top_k"),
        ({"penalty_alpha": 0.6, "top_k": -1}, "top_k"),
        ({"penalty_alpha": 0.6, "n": 2}, "n"),
        ({"penalty_alpha": 0.6, "bad_words": ["a"]}, "bad_words"),
        ({"penalty_alpha": 0.6, "guided_choice": ["a"]}, "guided_choice"),
        ({"guidance": {}}, "guidance.scale"),
        ({"guidance": {"scale": 1e300}}, "guidance.scale"),
        ({"guidance": {"scale": 2.0, "negative": [9999]}}, "guidance.negative"),
        ({"guidance": {"scale": 2.0, "negative": [-1]}}, "guidance.negative"),
        ({"guidance": {"scale": 2.0, "negative": "x" * 1500}}, "guidance.negative"),
        ({"guidance": {"scale": 2.0, "negative": [1, "a"]}}, "guidance.negative"),
    ],
    ids=repr,
)
def test_what_cannot_be_is_refused(address: str, fields: Any, param: str) -> None:
    """With the field at fault, in OpenAI's shape."""
    body = {"prompt": "x", "max_tokens": 4, **fields}
    reply = httpx.post(address + "/v1/completions", json=body)
    assert reply.status_code == 400, reply.text
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error" and error["message"]
    assert error["param"].split(".")[: param.count(".") + 1] == param.split(".")


def test_a_chat_names_its_own_fields(client: Any) -> None:
    tool = {"type": "function", "function": {"name": "clock"}}
    settings: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 4}
    for fields, param in (
        ({"tools": [tool], "tool_choice": "required"}, "tool_choice"),
        ({"logprobs": True}, "logprobs"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(**settings, **fields, extra_body=BEAM)
        assert caught.value.param == param
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**settings, n=5, extra_body=BEAM)
    assert caught.value.param == "n"


def test_fields_that_change_nothing_are_no_mix(client: Any) -> None:
    """Clients send defaults along."""
    defaults = {"presence_penalty": 0, "frequency_penalty": 0, "top_p": 1, "logit_bias": {}}
    done = client.completions.create(
        model="tiny", prompt="x", max_tokens=4, n=1, best_of=1, **defaults, extra_body=BEAM
    )
    plain = client.completions.create(model="tiny", prompt="x", max_tokens=4, extra_body=BEAM)
    assert done.choices[0].text == plain.choices[0].text


def test_the_description_tells_of_them(address: str) -> None:
    parts = httpx.get(address + "/openapi.json").json()["components"]["schemas"]
    for body in ("CompletionBody", "ChatBody"):
        assert {"beam", "penalty_alpha", "guidance"} <= set(parts[body]["properties"])
    assert set(parts["BeamOptions"]["properties"]) == {
        "beams",
        "groups",
        "diversity",
        "length_penalty",
    }
    assert parts["BeamOptions"]["additionalProperties"] is False
    assert set(parts["GuidanceOptions"]["properties"]) == {"scale", "negative"}


@pytest.fixture(scope="module")
def narrow() -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """A server that holds 8 texts, and what its queue was told: texts, and tokens of prompts."""
    told: list[tuple[int, int]] = []
    leave = Admission.leave
    texts: dict[int, int] = {}

    def watched(self: Admission, place: Any, **options: Any) -> None:
        if place.answers:
            told.append((place.answers, texts.pop(id(place), 0)))
        leave(self, place, **options)

    add = Admission.add_tokens

    def adding(self: Admission, place: Any, tokens: int) -> None:
        texts[id(place)] = tokens
        add(self, place, tokens)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Admission, "leave", watched)
        patch.setattr(Admission, "add_tokens", adding)
        config = ServeConfig(name="tiny", queue_requests=6)
        with listening(engine(max_running=2), config) as url:
            yield url, told


@pytest.mark.parametrize(
    ("fields", "texts", "tokens"),
    [
        ({}, 1, 5),
        ({"n": 2}, 2, 5),
        ({"beam": {"beams": 6}, "n": 2}, 6, 5),
        ({"penalty_alpha": 0.6}, 4, 5),
        ({"penalty_alpha": 0.6, "top_k": 7}, 7, 5),
        ({"guidance": {"scale": 2.0, "negative": "nöthing"}, "n": 2}, 4, 13),
        ({"guidance": {"scale": 2.0}}, 2, 5),
        ({"beam": {"beams": 3}, "prompt": ["hello", "you"]}, 6, 8),
    ],
    ids=repr,
)
def test_the_queue_counts_every_text(
    narrow: tuple[str, list[tuple[int, int]]], fields: Any, texts: int, tokens: int
) -> None:
    url, told = narrow
    told.clear()
    body = {"prompt": "hello", "max_tokens": 3, **fields}
    assert httpx.post(url + "/v1/completions", json=body).status_code == 200
    assert told == [(texts, tokens)]
    if "prompt" not in fields:
        told.clear()
        chat = {"messages": HI, "max_tokens": 3, **fields}
        assert httpx.post(url + "/v1/chat/completions", json=chat).status_code == 200
        assert told[0][0] == texts


def test_too_many_beams_in_one_request(narrow: tuple[str, list[tuple[int, int]]]) -> None:
    body = {"prompt": ["hello"] * 2, "max_tokens": 3, "beam": {"beams": 5}}
    reply = httpx.post(narrow[0] + "/v1/completions", json=body)
    assert reply.status_code == 400 and "10" in reply.json()["error"]["message"]


def test_a_search_has_all_the_time_there_is() -> None:
    """Its first token comes with its last; and what is cut by the deadline is no answer."""
    one = engine()
    plain = one._stepper.hidden

    def slow(*values: Any) -> Any:
        time.sleep(0.02)
        return plain(*values)

    one._stepper.hidden = slow
    config = Settings(name="tiny", first_token_seconds=0.3, total_seconds=1.5)
    body: dict[str, Any] = {"prompt": "hello", "max_tokens": 25, "beam": {"beams": 2}}
    body["ignore_eos"] = True
    with listening(one, config) as url:
        reply = httpx.post(url + "/v1/completions", json=body, timeout=20)
        assert reply.status_code == 200, reply.text
        reply = httpx.post(url + "/v1/completions", json={**body, "max_tokens": 500}, timeout=20)
        assert reply.status_code == 503 and reply.json()["error"]["code"] == "timeout"
        assert "search" in reply.json()["error"]["message"]
        assert one.stats().cache_used_pages == 0


@pytest.mark.parametrize("way", ["beam", "contrast"])
def test_a_client_that_leaves_ends_its_search(way: str) -> None:
    one = Engine(language_model(), EngineConfig(max_running=8))
    with listening(one, ServeConfig(name="tiny")) as url:
        body = {"prompt": "hello", "max_tokens": 900, "ignore_eos": True, **WAYS[way]}

        def ask() -> None:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(url + "/v1/completions", json=body, timeout=0.4)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(10)
        until = time.monotonic() + 10
        while time.monotonic() < until and one.busy:
            time.sleep(0.01)
        stats = one.stats()
        assert (stats.running, stats.cache_used_pages, stats.vector_bytes) == (0, 0, 0)
        assert stats.generated_tokens < 900
