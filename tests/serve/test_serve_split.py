"""What was thought, said and called; conversations and functions as text."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_small import tokenizer

from langwright.generate import Event
from langwright.serve.chat_answer import ChatAnswer
from langwright.serve.conversation import plain_messages
from langwright.serve.errors import ApiError
from langwright.serve.openai_types import ChatBody, Tool
from langwright.serve.split import Splitter
from langwright.serve.token_texts import TokenTexts
from langwright.serve.tools import calls_schema, parse_call

CLOCK = Tool.model_validate({"type": "function", "function": {"name": "clock"}})
NULL = {"const": None}
WORDS = ("<think>", "</think>", "<tool_call>", "</tool_call>", " ", "\n", "a", "<", "<t", "{}", "é")


def parts(pieces: list[str], **options: bool) -> list[tuple[str, str]]:
    """The parts of an answer that came in these pieces, neighbours of a kind joined."""
    splitter = Splitter(**{"thinks": True, "calls": True, **options})
    found: list[tuple[str, str]] = []
    for part in [one for piece in pieces for one in splitter.push(piece)] + splitter.finish():
        assert part.text or part.kind == "call"
        if found and part.kind == found[-1][0] != "call":
            found[-1] = (part.kind, found[-1][1] + part.text)
        else:
            found.append((part.kind, part.text))
    return found


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("hello", [("content", "hello")]),
        ("\n<think>\nhm\n</think>\n\nyes ", [("reasoning", "hm"), ("content", "yes ")]),
        ("<think>never done", [("reasoning", "never done")]),
        ("<think></think>x", [("content", "x")]),
        ("a <think>b</think>", [("content", "a <think>b</think>")]),
        ('x\n<tool_call>\n{"a": 1}\n</tool_call>', [("content", "x"), ("call", '{"a": 1}')]),
        ("<tool_call>1</tool_call>\n<tool_call>2</tool_call>\n", [("call", "1"), ("call", "2")]),
        ("<tool_call>{}", [("call", "{}")]),
        ('<tool_call>{"cut', [("content", '<tool_call>{"cut')]),
        (" <th", [("content", " <th")]),
    ],
)
def test_an_answer_is_cut_at_its_marks(text: str, wanted: list[tuple[str, str]]) -> None:
    assert parts([text]) == wanted
    assert parts(list(text)) == wanted


def test_the_prompt_may_have_opened_the_thought() -> None:
    assert parts(["so", "</think>", "\nyes"], open_thought=True) == [
        ("reasoning", "so"),
        ("content", "yes"),
    ]
    text = "<think>a</think><tool_call>{}</tool_call>"
    assert parts([text], thinks=False, calls=False) == [("content", text)]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(WORDS), max_size=12).map("".join),
    st.lists(st.integers(0, 60)),
    st.booleans(),
)
def test_it_does_not_matter_how_the_text_was_cut(text: str, cuts: list[int], opened: bool) -> None:
    edges = sorted({0, len(text), *(min(cut, len(text)) for cut in cuts)})
    pieces = [text[a:b] for a, b in pairwise(edges)]
    assert parts(pieces, open_thought=opened) == parts([text], open_thought=opened)


def answer(texts: list[str], **options: Any) -> tuple[str, str, list[str], str | None]:
    """(reasoning, content, names of called functions, why it ended)."""
    given = {"thinks": True, "open_thought": False, "logprobs": False, "most_calls": None}
    one = ChatAnswer(TokenTexts(tokenizer("<think>", "</think>")), [CLOCK], **{**given, **options})
    thought, said, names = "", "", []
    ids = {"<think>": 260, "</think>": 261}
    for index, text in enumerate(texts):
        last = "stop" if index == len(texts) - 1 else None
        token = ids.get(text, 97)
        delta = one.take(Event(0, 0, token, "" if text in ids else text, finish_reason=last))
        thought += delta.reasoning or ""
        said += delta.content or ""
        names += [call.function.name for call in delta.tool_calls or []]
    return thought, said, names, one.finish


def test_marks_that_are_special_tokens_count_too() -> None:
    assert answer(["<think>", "hm", "</think>", "yes"]) == ("hm", "yes", [], "stop")


def test_calls_end_the_answer_as_calls() -> None:
    call = '<tool_call>{"name": "clock", "arguments": "{}"}</tool_call>'
    assert answer([call, call]) == ("", "", ["clock", "clock"], "tool_calls")
    assert answer([call, call], most_calls=1) == ("", "", ["clock"], "tool_calls")
    unknown = '<tool_call>{"name": "rm", "arguments": {}}</tool_call>'
    assert answer([unknown, ""]) == ("", unknown, [], "stop")


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"name": 1}', '{"name": "other"}', '{"name": "clock", "arguments": 3}', "["]
    + ["[" * 100_000, '{"name": "clock", "arguments": "{"}'],
)
def test_what_is_no_call(text: str) -> None:
    assert parse_call(text, [CLOCK]) is None


def test_schemas_keep_their_references() -> None:
    pytest.importorskip("jsonschema_rs", reason="needs jsonschema_rs")
    import jsonschema_rs

    tools = []
    for name, kind in (("a", "integer"), ("b", "string")):
        parameters = {
            "type": "object",
            "properties": {"x": {"$ref": "#/$defs/t"}, "y": {"$ref": "#/definitions/t"}},
            "required": ["x"],
            "$defs": {
                "t": {"anyOf": [{"type": kind}, {"$ref": "#/$defs/u"}]},
                "u": {"const": None},
            },
            "definitions": {"t": {"type": "boolean"}},
        }
        tools.append(
            Tool.model_validate(
                {"type": "function", "function": {"name": name, "parameters": parameters}}
            )
        )
    check = jsonschema_rs.validator_for(calls_schema(tools))
    assert check.is_valid({"name": "a", "arguments": {"x": 1, "y": True}})
    assert check.is_valid({"name": "b", "arguments": {"x": "1"}})
    assert check.is_valid({"name": "b", "arguments": {"x": None}})
    assert not check.is_valid({"name": "a", "arguments": {"x": "1"}})
    assert not check.is_valid({"name": "a", "arguments": {"x": 1, "y": 1}})
    assert not check.is_valid({"name": "c", "arguments": {"x": 1}})


def turns(*messages: dict[str, Any], tools: list[Tool] | None = None) -> list[dict[str, str]]:
    body = ChatBody.model_validate_json(json.dumps({"messages": messages}))
    return plain_messages(body.messages, tools or [])


def test_conversations_become_system_user_assistant() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    found = turns(
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        {"role": "tool", "content": "12", "tool_call_id": "1"},
        {"role": "tool", "content": "13", "tool_call_id": "2"},
        {"role": "user", "content": "thanks"},
        tools=[CLOCK],
    )
    assert [one["role"] for one in found] == ["system", "user", "assistant", "user", "user"]
    assert found[0]["content"].startswith("Be brief.\n\n# Tools") and "clock" in found[0]["content"]
    assert found[1]["content"] == "ab"
    assert found[2]["content"].count('{"name": "clock", "arguments": {}}') == 2
    assert found[3]["content"].count("<tool_response>") == 2 and "13" in found[3]["content"]
    assert turns({"role": "user", "content": "x"}, tools=[CLOCK])[0]["role"] == "system"


def test_pictures_are_refused_by_their_place() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:"}}
    with pytest.raises(ApiError, match="reads text only") as caught:
        turns({"role": "user", "content": [{"type": "text", "text": "x"}, picture]})
    assert caught.value.param == "messages.0.content.1" and caught.value.status == 400
