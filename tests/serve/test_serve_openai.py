"""OpenAI's own client, unchanged, against a running server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
import torch
from serve_small import tokenizer

from langwright.generate import Engine, score_tokens

openai = pytest.importorskip("openai", reason="needs the openai client")

HI = [{"role": "user", "content": "hi"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"$ref": "#/$defs/place"}},
            "required": ["place"],
            "additionalProperties": False,
            "$defs": {"place": {"enum": ["Rome", "Oslo"]}},
        },
    },
}
NAMED = {"type": "function", "function": {"name": "weather"}}
CLOCK = {"type": "function", "function": {"name": "clock"}}


@pytest.fixture(scope="module")
def client(address: str) -> Any:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def test_models(client: Any) -> None:
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("other")
    assert caught.value.code == "model_not_found"


def test_a_completion_is_what_the_engine_gives(client: Any, small_engine: Engine) -> None:
    done = client.completions.create(model="tiny", prompt="Once", max_tokens=9, temperature=0)
    with small_engine.paused():
        assert done.choices[0].text == small_engine.lm.generate("Once", max_tokens=9, temperature=0)
    assert done.choices[0].finish_reason == "length"
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (4, 9)
    assert done.object == "text_completion" and done.id.startswith("cmpl-")


def test_defaults_are_openais(client: Any) -> None:
    done = client.completions.create(model="tiny", prompt="Once", seed=-5)
    assert done.usage.completion_tokens == 16 or done.choices[0].finish_reason == "stop"
    again = client.completions.create(model="tiny", prompt="Once", seed=-5)
    assert again.choices[0].text == done.choices[0].text


def test_several_prompts_and_answers_keep_their_places(client: Any) -> None:
    settings: dict[str, Any] = {"model": "tiny", "max_tokens": 6, "temperature": 0, "n": 2}
    done = client.completions.create(prompt=["ab", "cd", "ef"], echo=True, **settings)
    assert [one.index for one in done.choices] == list(range(6))
    assert [one.text[:2] for one in done.choices] == ["ab", "ab", "cd", "cd", "ef", "ef"]
    alone = client.completions.create(prompt=[99, 100], echo=True, **settings)
    assert alone.choices[0].text == done.choices[2].text
    texts = [""] * 6
    for chunk in client.completions.create(
        prompt=["ab", "cd", "ef"], echo=True, stream=True, **settings
    ):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [one.text for one in done.choices]


def test_echo_with_logprobs_scores_the_prompt(client: Any, small_engine: Engine) -> None:
    done = client.completions.create(
        model="tiny", prompt="Héllo", max_tokens=1, echo=True, logprobs=2, temperature=0
    )
    logprobs = done.choices[0].logprobs
    ids = tokenizer().encode("Héllo")
    assert len(logprobs.tokens) == len(ids) + 1 == len(logprobs.text_offset)
    wanted = score_tokens(small_engine.lm.model, ids, 2)
    assert logprobs.token_logprobs[0] is None
    for own, score in zip(logprobs.token_logprobs[1:], wanted[1:]):
        assert own == pytest.approx(score.logprob, abs=1e-5)
    assert logprobs.tokens[:3] == ["H", "bytes:\\xc3", "bytes:\\xa9"]
    assert logprobs.text_offset[:4] == [0, 1, 2, 2]  # characters that begin before a token
    assert logprobs.text_offset[-1] == len("Héllo")
    assert done.choices[0].text.startswith("Héllo")
    # The last token was drawn greedily: it is the likeliest of its alternatives.
    assert logprobs.token_logprobs[-1] == max(logprobs.top_logprobs[-1].values())
    none = client.completions.create(
        model="tiny", prompt="Héllo", max_tokens=0, echo=True, logprobs=2
    )
    assert none.choices[0].text == "Héllo" and none.usage.completion_tokens == 0
    assert none.choices[0].logprobs.token_logprobs == logprobs.token_logprobs[:-1]


def test_the_end_token_is_counted_and_not_shown(client: Any) -> None:
    done = client.completions.create(
        model="tiny", prompt="a", max_tokens=5, logprobs=1, logit_bias={"256": 100}
    )
    assert done.choices[0].text == "" and done.choices[0].finish_reason == "stop"
    assert done.choices[0].logprobs.tokens == ["<|endoftext|>"]
    assert done.usage.completion_tokens == 1


def test_best_of_gives_the_likeliest(client: Any) -> None:
    settings: dict[str, Any] = {"model": "tiny", "prompt": "a", "max_tokens": 4, "seed": 3}
    every = client.completions.create(n=6, logprobs=0, **settings)
    means = []
    for one in every.choices:
        means.append(sum(one.logprobs.token_logprobs) / len(one.logprobs.token_logprobs))
    best = client.completions.create(n=1, best_of=6, **settings)
    assert best.choices[0].text == every.choices[means.index(max(means))].text
    assert best.usage.completion_tokens == every.usage.completion_tokens


def test_a_stream_is_the_answer_in_pieces(client: Any) -> None:
    settings: dict[str, Any] = {"model": "tiny", "messages": HI, "max_tokens": 30, "seed": 4}
    whole = client.chat.completions.create(logprobs=True, top_logprobs=2, **settings)
    chunks = list(
        client.chat.completions.create(
            stream=True,
            stream_options={"include_usage": True},
            logprobs=True,
            top_logprobs=2,
            **settings,
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(one.choices[0].delta.content or "" for one in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    reasons = [one.choices[0].finish_reason for one in chunks[:-1]]
    assert reasons[-1] == whole.choices[0].finish_reason and set(reasons[:-1]) == {None}
    streamed = [
        token
        for one in chunks[:-1]
        if one.choices[0].logprobs
        for token in one.choices[0].logprobs.content
    ]
    assert streamed == whole.choices[0].logprobs.content
    assert len({one.id for one in chunks}) == 1
    raw = b"".join(bytes(one.bytes) for one in streamed)
    assert raw.decode("utf-8", "replace") == text


def test_stop_strings_are_cut_off(client: Any) -> None:
    text = client.completions.create(model="tiny", prompt="q", max_tokens=40, seed=8)
    whole = text.choices[0].text
    stop = whole[3:5]
    cut = client.completions.create(model="tiny", prompt="q", max_tokens=40, seed=8, stop=[stop])
    assert cut.choices[0].text == whole[: whole.index(stop)]
    assert cut.choices[0].finish_reason == "stop"


def test_response_formats(client: Any) -> None:
    pytest.importorskip("llguidance", reason="needs the extra `constrain`")
    schema = {
        "type": "object",
        "properties": {"x": {"enum": [1, 2]}},
        "required": ["x"],
        "additionalProperties": False,
    }
    done = client.chat.completions.create(
        model="tiny",
        messages=HI,
        max_tokens=300,
        seed=1,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": schema, "strict": True},
        },
    )
    assert json.loads(done.choices[0].message.content) in ({"x": 1}, {"x": 2})
    assert done.choices[0].finish_reason == "stop"
    chosen = client.completions.create(
        model="tiny", prompt="a", max_tokens=30, extra_body={"guided_choice": ["yes", "no"]}
    )
    assert chosen.choices[0].text in ("yes", "no")


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("stream", [False, True])
def test_a_demanded_call_has_the_right_form(client: Any, choice: Any, stream: bool) -> None:
    pytest.importorskip("llguidance", reason="needs the extra `constrain`")
    settings: dict[str, Any] = {
        "model": "tiny",
        "messages": HI,
        "max_tokens": 200,
        "seed": 2,
        "tools": [WEATHER, CLOCK] if isinstance(choice, dict) else [WEATHER],
        "tool_choice": choice,
        "parallel_tool_calls": False,
    }
    if stream:
        with client.chat.completions.stream(**settings) as events:
            done = events.get_final_completion()
    else:
        done = client.chat.completions.create(**settings)
    message = done.choices[0].message
    assert done.choices[0].finish_reason == "tool_calls" and not message.content
    (call,) = message.tool_calls
    assert call.function.name == "weather" and call.id.startswith("call_")
    assert json.loads(call.function.arguments)["place"] in ("Rome", "Oslo")


def test_a_free_call_is_found_in_the_text(client: Any) -> None:
    pytest.importorskip("llguidance", reason="needs the extra `constrain`")
    said = 'One moment. <tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>\n'
    done = client.chat.completions.create(
        model="tiny",
        messages=HI,
        tools=[WEATHER, CLOCK],
        max_tokens=200,
        extra_body={"guided_choice": [said]},
    )
    message = done.choices[0].message
    assert message.content == "One moment."
    assert [call.function.name for call in message.tool_calls] == ["clock"]
    assert message.tool_calls[0].function.arguments == "{}"
    # The talk goes on with what the function said.
    turn = message.model_dump(exclude_none=True)
    after = [
        *HI,
        turn,
        {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "12:00"},
    ]
    again = client.chat.completions.create(
        model="tiny", messages=after, tools=[WEATHER, CLOCK], max_tokens=3
    )
    assert again.usage.prompt_tokens > done.usage.prompt_tokens
    # Without the functions, the same text is just text.
    plain = client.chat.completions.create(
        model="tiny",
        messages=HI,
        tools=[CLOCK],
        tool_choice="none",
        max_tokens=200,
        extra_body={"guided_choice": [said]},
    )
    assert plain.choices[0].message.content == said and not plain.choices[0].message.tool_calls


def test_strict_functions_may_be_called_and_need_not(client: Any) -> None:
    pytest.importorskip("llguidance", reason="needs the extra `constrain`")
    strict = json.loads(json.dumps(WEATHER))
    strict["function"]["strict"] = True
    done = client.chat.completions.create(
        model="tiny", messages=HI, tools=[strict], max_tokens=20, seed=1
    )
    assert done.choices[0].message.content


def test_embeddings(client: Any, small_engine: Engine) -> None:
    both = client.embeddings.create(model="tiny", input=["a cat", "dogs"])  # base64 inside
    plain = client.embeddings.create(model="tiny", input="dogs", encoding_format="float")
    ids = client.embeddings.create(model="tiny", input=tokenizer().encode("dogs"))
    assert len(both.data) == 2 and [one.index for one in both.data] == [0, 1]
    vector = plain.data[0].embedding
    assert len(vector) == 32 and sum(x * x for x in vector) == pytest.approx(1, abs=1e-5)
    assert both.data[1].embedding == pytest.approx(vector, abs=1e-6)
    assert ids.data[0].embedding == pytest.approx(vector, abs=1e-6)
    assert both.data[0].embedding != pytest.approx(vector, abs=1e-2)
    assert both.usage.prompt_tokens == 9
    with small_engine.paused():
        wanted = small_engine.lm.model.hidden(torch.tensor([tokenizer().encode("dogs")]))[0].mean(0)
    assert vector == pytest.approx((wanted / wanted.norm()).tolist(), abs=1e-5)


def test_errors_are_the_clients_own(client: Any) -> None:
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="tiny", prompt="x" * 2000)
    assert long.value.code == "context_length_exceeded" and long.value.param == "prompt"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": "x" * 2000}]
        )
    assert long.value.code == "context_length_exceeded" and long.value.param == "messages"
    with pytest.raises(openai.NotFoundError):
        client.completions.create(model="gpt-4o", prompt="x")
    for wrong in (
        {"temperature": 3},
        {"top_p": 2},
        {"n": 1000},
        {"logit_bias": {"x": 1}},
        {"logit_bias": {"5000": 1}},
        {"stop": [""]},
        {"max_tokens": -1},
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(model="tiny", prompt="x", **wrong)
        assert caught.value.param and caught.value.param.split(".")[0] in wrong


def test_a_bad_form_is_named_as_it_was_sent(client: Any) -> None:
    schema = {"name": "x", "schema": {"type": "nothing"}}
    whole = {"response_format": {"type": "json_schema", "json_schema": schema}}
    for form in (whole, {"extra_body": {"guided_regex": "(("}}):
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as caught:
                client.chat.completions.create(model="tiny", messages=HI, stream=stream, **form)
            name = next(iter(form.get("extra_body", form)))
            assert caught.value.param == name and "not a usable" in caught.value.message
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="tiny", prompt="x", extra_body={"guided_regex": "(("})
    assert caught.value.param == "guided_regex"


@pytest.mark.parametrize(
    "wrong", [[-1], [True], ["a", [1]], [1, "a"], [[1], []], 5, {"a": 1}, [1.5]]
)
def test_a_prompt_of_no_kind_is_told_in_one_sentence(client: Any, wrong: Any) -> None:
    for call, field in ((client.completions.create, "prompt"), (client.embeddings.create, "input")):
        with pytest.raises(openai.BadRequestError) as caught:
            call(model="tiny", **{field: wrong})
        assert caught.value.param == field
        assert "neither a text nor token ids" in caught.value.message


def test_asynchronous_streams_at_a_time(address: str) -> None:
    async def one(client: Any, seed: int) -> str:
        text = ""
        stream = await client.chat.completions.create(
            model="tiny", messages=HI, max_tokens=20, seed=seed, temperature=0.7, stream=True
        )
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
        return text

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{address}/v1", api_key="x") as client:
            assert (await client.models.list()).data[0].id == "tiny"
            return await asyncio.gather(*(one(client, 1000 + i) for i in range(12)))

    texts = asyncio.run(all_of_them())
    assert len(set(texts)) > 6 and all(texts)
