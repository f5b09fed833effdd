"""Contrastive search as it is asked for: settings, streams, calls of a language model, mistakes."""

from __future__ import annotations

import pytest
import torch
from engine_cases import V, check_empty, engine_of, preset, random_model

from langwright.base import UserError
from langwright.generate import (
    Engine,
    EngineConfig,
    LanguageModel,
    SamplingParams,
    contrastive_search,
    generate_tokens,
)

SEARCH = SamplingParams(penalty_alpha=0.6, top_k=4, max_tokens=16)


def test_events_come_token_by_token(lm):
    """With text, until a stop string; the answer is that of the plain function so far."""
    prompt = lm.encode_prompt("abc")
    free = SamplingParams(penalty_alpha=0.6, top_k=4, max_tokens=20, ignore_eos=True)
    wanted = contrastive_search(lm.model, prompt, k=4, alpha=0.6, max_tokens=20)
    engine = Engine(lm, EngineConfig(block_tokens=4))
    events = list(engine.stream(prompt, free))
    assert [one.token for one in events] == wanted
    assert [one.finish_reason for one in events] == [None] * 19 + ["length"]
    whole = "".join(one.text for one in events)
    assert whole == lm.tokenizer.decode(wanted, skip_special=True)
    stop = whole[5:7]
    output = engine.generate([prompt], free.replace(stop=[stop]))[0]
    assert output.answers[0].text == whole[: whole.index(stop)]
    assert output.finish_reasons == ["stop"]
    check_empty(engine)


def test_calls_of_a_language_model(lm):
    """`generate`, `stream` and lists of prompts, k = 4 where nothing else is said."""
    ids = lm.encode_prompt("abc")
    stop_ids = lm.tokenizer.stop_ids
    wanted = contrastive_search(lm.model, ids, k=4, alpha=0.6, max_tokens=12, stop_ids=stop_ids)
    text = lm.tokenizer.decode(wanted, skip_special=True)
    assert lm.generate("abc", penalty_alpha=0.6, max_tokens=12) == text
    assert lm.generate(["abc"] * 2, penalty_alpha=0.6, top_k=4, max_tokens=12) == [text] * 2
    assert "".join(lm.stream("abc", penalty_alpha=0.6, max_tokens=12)) == text


def test_symbols_behind_the_vocabulary_never_come(tokenizer):
    """A padded output layer whose own symbols would be the likeliest."""
    size = tokenizer.vocab_size
    model = random_model(preset("gpt2-124m").replace(vocab_size=size + 9, tied=False))
    with torch.no_grad():
        model.head.weight[size:] *= 30
    params = SamplingParams(penalty_alpha=0.6, top_k=size, max_tokens=20, ignore_eos=True)
    engine = Engine(LanguageModel(model, tokenizer), EngineConfig(block_tokens=4))
    output = engine.generate([[1, 2, 3]], params)[0]
    assert output.error is None and len(output.answers[0].ids) == 20
    assert max(output.answers[0].ids) < size
    with pytest.raises(UserError, match="candidates"):
        engine.submit([1, 2, 3], params.replace(top_k=size + 1))


def test_mistakes_are_told():
    model = random_model(preset("llama-2m"))
    wrong = {
        "n": 2,
        "best_of": 2,
        "logprobs": 1,
        "min_tokens": 3,
        "repetition_penalty": 1.1,
        "min_p": 0.1,
        "guidance": {"scale": 2.0},
        "bad_ids": [[1]],
        "constraint": {"kind": "json_object"},
    }
    for name, value in wrong.items():
        with pytest.raises(UserError, match=name):
            SamplingParams.parse({"penalty_alpha": 0.6, name: value})
    for name, value in (("penalty_alpha", 0.6), ("top_k", 4), ("min_p", 0.1)):
        with pytest.raises(UserError, match=name):
            SamplingParams.parse({"beam": {"beams": 2}, name: value})
    for alpha in (-0.1, 1.1):
        with pytest.raises(UserError, match="penalty_alpha"):
            SamplingParams.parse({"penalty_alpha": alpha})
    with pytest.raises(UserError, match="256"):
        SamplingParams.parse({"penalty_alpha": 0.5, "top_k": 257})
    with pytest.raises(UserError, match="candidates"):
        engine_of(model).submit([1, 2], SEARCH.replace(top_k=V + 1))
    with pytest.raises(UserError, match="contrastive_search"):
        generate_tokens(model, [[1]], SEARCH)


def test_texts_that_go_through_the_model_for_a_request():
    assert SamplingParams(n=2, best_of=3).rows == 3
    assert SamplingParams(n=2, guidance={"scale": 1.5}).rows == 4
    assert SamplingParams(n=2, beam={"beams": 6}).rows == 6
    assert SamplingParams(penalty_alpha=0.5).rows == 4
    assert SamplingParams(penalty_alpha=0.5, top_k=7).rows == 7
