"""Constrained answers of a random model have the form that was asked for."""

from __future__ import annotations

import json
import re
import string
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.generate import (
    Constraint,
    Decoder,
    DecodingRow,
    ForcedProposer,
    RowError,
    SamplingParams,
    SpeculationCounts,
    compile_constraint,
    generate_tokens,
)
from langwright.tokenizer import CharTokenizer, Tokenizer, TokenizerConfig, train_tokenizer

pytest.importorskip("llguidance")

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog"]},
        "tags": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
    },
    "required": ["name", "age", "kind", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def characters() -> Tokenizer:
    return CharTokenizer.train(
        [string.printable + "é"], ["<|endoftext|>", "<|im_end|>"], eos="<|endoftext|>"
    )


@pytest.fixture(scope="module")
def pairs() -> Tokenizer:
    text = json.dumps({"name": "Ann", "age": 31, "kind": "cat", "tags": [True, False]}) + " yes no "
    return train_tokenizer(TokenizerConfig(vocab_size=320), [text * 4])


def answer(
    tokenizer: Tokenizer, constraint: Constraint, seed: int, most: int = 300, **values: object
) -> tuple[str, bool]:
    """A text of random logits under the constraint, and whether it came to its end."""
    params = SamplingParams.parse(
        {"top_p": 1.0, "constraint": constraint.to_json(), "max_tokens": most, **values}
    )
    row = DecodingRow(
        params,
        [0],
        vocab_size=tokenizer.vocab_size,
        seed=seed,
        stop_ids=tokenizer.stop_ids,
        tokenizer=tokenizer,
    )
    generator = torch.Generator().manual_seed(seed)
    decoder = Decoder(tokenizer.vocab_size)
    for _ in range(most):
        logits = torch.randn(1, tokenizer.vocab_size, generator=generator)
        token = int(decoder.draw(logits, [row]).tokens)
        row.take(token)
        if token in row.stop_ids:
            return tokenizer.decode(row.ids[:-1]), True
        if row.complete:
            return tokenizer.decode(row.ids), True
    return tokenizer.decode(row.ids), False


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["characters", "pairs"]))
def test_json_schema(request, seed: int, kind: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    tokenizer = request.getfixturevalue(kind)
    text, ended = answer(tokenizer, Constraint(kind="json_schema", value=PERSON), seed)
    assert ended
    jsonschema.validate(json.loads(text), PERSON)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    pattern=st.sampled_from(
        [r"[0-9]{3}-[a-c]+x", r"(yes|no)( é)?", r"\d{2}:\d{2}", r"a?b*c", r"[^a-z]{1,4}!"]
    ),
)
def test_regex(characters: Tokenizer, seed: int, pattern: str) -> None:
    text, ended = answer(characters, Constraint(kind="regex", value=pattern), seed)
    assert ended
    assert re.fullmatch(pattern, text)


def test_every_choice_is_possible(characters: Tokenizer) -> None:
    words = ["yes", "no", "yesterday"]
    constraint = Constraint(kind="choice", value=words)
    found = {answer(characters, constraint, seed)[0] for seed in range(60)}
    assert found == set(words)  # "yes" may end or go on


@pytest.mark.parametrize(
    "grammar", ['root ::= "<" [a-b]+ ">"', 'start: "<" inner ">"\ninner: /[a-b]+/']
)
def test_grammar_as_gbnf_and_as_lark(characters: Tokenizer, grammar: str) -> None:
    text, ended = answer(characters, Constraint(kind="grammar", value=grammar), 5)
    assert ended
    assert re.fullmatch("<[ab]+>", text)


def test_json_object(characters: Tokenizer) -> None:
    ended = 0
    for seed in range(12):
        text, done = answer(characters, Constraint(kind="json_object"), seed, most=400)
        assert text.startswith("{")
        if done:
            ended += 1
            assert isinstance(json.loads(text), dict)
    assert ended > 3


def test_blanks_do_not_go_on_for_ever(characters: Tokenizer) -> None:
    """A model that likes blanks most of all must still come to the point."""
    params = SamplingParams(
        temperature=0.0, constraint=Constraint(kind="json_schema", value={"type": "object"})
    )
    row = DecodingRow(params, [0], vocab_size=characters.vocab_size, seed=0, tokenizer=characters)
    logits = torch.zeros(1, characters.vocab_size)
    logits[0, characters.encode_ordinary(" ")[0]] = 9.0
    decoder = Decoder()
    for _ in range(60):
        row.take(int(decoder.draw(logits, [row]).tokens))
    assert len(characters.decode(row.ids).replace(" ", "")) > 1


def test_the_end_token_only_where_the_form_is_whole(characters: Tokenizer) -> None:
    matcher = compile_constraint(
        Constraint(kind="regex", value="ab+"), characters, characters.stop_ids
    )
    end = characters.stop_ids[0]
    seen = []
    for letter in "abb":
        seen.append(bool(matcher.allowed()[end]))
        matcher.take(characters.encode_ordinary(letter)[0])
    assert [*seen, bool(matcher.allowed()[end])] == [False, False, True, True]
    assert not matcher.complete


def test_control_tokens_are_no_text(characters: Tokenizer) -> None:
    """Inside a JSON string anything may come, but not the marks of a conversation."""
    matcher = compile_constraint(
        Constraint(kind="json_schema", value={"type": "string"}), characters, characters.stop_ids
    )
    matcher.take(characters.encode_ordinary('"')[0])
    allowed = matcher.allowed()
    assert allowed[characters.encode_ordinary("x")[0]]
    assert not any(allowed[token] for token in characters.special_tokens.values())


def test_matchers_do_not_share_their_state(characters: Tokenizer) -> None:
    constraint = Constraint(kind="regex", value="ab")
    first = compile_constraint(constraint, characters, characters.stop_ids)
    first.take(characters.encode_ordinary("a")[0])
    second = compile_constraint(constraint, characters, characters.stop_ids)
    assert second.allowed()[characters.encode_ordinary("a")[0]]
    assert first.allowed()[characters.encode_ordinary("b")[0]]


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        ("regex", "(a", "regex"),
        ("regex", "(?=a)b", "regex"),
        ("json_schema", "{nope", "json_schema"),
        ("json_schema", {"type": "nonsense"}, "nonsense"),
        ("json_schema", {"$ref": "http://example.com/x"}, "not fetch"),
        ("json_schema", "[" * 100_000, "json_schema"),
        ("json_schema", {"enum": ["x" * 200_000]}, "too long"),
        ("grammar", 'start: "a', "grammar"),
        ("grammar", "root ::= " + "(" * 20_000, "grammar"),
        ("grammar", "root ::= " + '("a" ' * 5000 + ")" * 5000, "grammar"),
    ],
)
def test_unusable_forms(characters: Tokenizer, kind: str, value: object, said: str) -> None:
    constraint = Constraint.parse({"kind": kind, "value": value})
    with pytest.raises(UserError, match=said):
        compile_constraint(constraint, characters, characters.stop_ids)


def test_a_form_that_would_take_all_memory_fails_its_row_only(characters: Tokenizer) -> None:
    with pytest.raises(RowError, match="too many"):
        answer(characters, Constraint(kind="regex", value="(a{1000}){1000}"), 0)


def test_a_deep_schema_is_refused(characters: Tokenizer) -> None:
    schema: dict[str, object] = {}
    for _ in range(sys.getrecursionlimit() * 3):
        schema = {"items": schema}
    with pytest.raises(UserError, match="deep"):
        constraint = Constraint.model_construct(kind="json_schema", value=schema)
        compile_constraint(constraint, characters, characters.stop_ids)


def test_bans_that_contradict_the_form(characters: Tokenizer) -> None:
    with pytest.raises(RowError, match="exclude all"):
        answer(characters, Constraint(kind="regex", value="abc"), 0, bad_words=["b"])


def test_without_the_library(characters: Tokenizer, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    fresh = CharTokenizer.train(["ab"], ["<|endoftext|>"], eos="<|endoftext|>")
    with pytest.raises(UserError, match="llguidance"):
        compile_constraint(Constraint(kind="regex", value="a"), fresh, fresh.stop_ids)


def test_in_the_loop_with_forced_tokens(tiny_model, tokenizer: CharTokenizer) -> None:
    """The answer ends by itself; what the form forces need not be guessed one by one."""
    params = SamplingParams(
        constraint=Constraint(kind="regex", value=r"abc(d|e)abcdefghij\.(f|g)"),
        temperature=1.0,
        max_tokens=30,
        seed=3,
    )
    model, prompt = tiny_model(), [[3, 4]]
    plain = generate_tokens(model, prompt, params, tokenizer.stop_ids, tokenizer=tokenizer)
    assert re.fullmatch(r"abc[de]abcdefghij\.[fg]", plain[0].text)
    assert plain[0].finish_reason == "stop"
    assert plain[0].stop_id is None  # no end token is needed
    counts = SpeculationCounts()
    forced = generate_tokens(
        model,
        prompt,
        params,
        tokenizer.stop_ids,
        tokenizer=tokenizer,
        proposer=ForcedProposer(),
        counts=counts,
    )
    assert forced == plain
    assert counts.steps <= 4
    assert counts.accepted == counts.proposed > 10
