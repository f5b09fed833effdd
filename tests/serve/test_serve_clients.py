"""Other people's clients of the OpenAI API, unchanged."""

from __future__ import annotations

from typing import Any

import pytest
from serve_small import tokenizer

from langwright.generate import Engine, score_tokens


def test_lm_eval_scores_as_the_model_does(address: str, small_engine: Engine) -> None:
    pytest.importorskip("lm_eval", reason="needs lm-eval")
    pytest.importorskip("aiohttp", reason="needs aiohttp")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    model = LocalCompletionsAPI(
        base_url=f"{address}/v1/completions", model="tiny", max_length=1024, num_concurrent=1
    )
    pairs = [("The cat", " sat"), ("One and one is", " two"), ("", "alone")]
    found = model.loglikelihood(
        [Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True
    )
    words = tokenizer()
    for (before, after), (total, _) in zip(pairs, found):
        start = words.encode(before) or [words.eos_id]
        scores = score_tokens(small_engine.lm.model, start + words.encode(after))
        wanted = sum(one.logprob for one in scores[len(start) :])
        assert total == pytest.approx(wanted, abs=1e-4)
    arguments: Any = ("Once", {"until": ["\n\n\n"], "max_gen_toks": 7})
    (text,) = model.generate_until(
        [Instance("generate_until", {}, arguments, 0)], disable_tqdm=True
    )
    assert text == small_engine.lm.generate("Once", max_tokens=7, temperature=0)


def test_langchain_talks_streams_and_calls(address: str) -> None:
    library = pytest.importorskip("langchain_openai", reason="needs langchain-openai")
    pytest.importorskip("llguidance", reason="needs the extra `constrain`")
    chat = library.ChatOpenAI(
        base_url=f"{address}/v1", api_key="none", model="tiny", max_tokens=20, seed=3
    )
    answer = chat.invoke([("system", "Be kind."), ("user", "Hello")])
    assert answer.content and answer.usage_metadata["output_tokens"] > 0
    streamed = "".join(one.content for one in chat.stream("Hello"))
    assert streamed == chat.invoke("Hello").content

    def clock(zone: str) -> str:
        """Tell the time."""
        return zone

    bound = chat.bind_tools([clock], tool_choice="clock", strict=True).bind(max_tokens=300)
    called = bound.invoke("What time is it?", logit_bias={"34": 4})
    assert called.tool_calls and called.tool_calls[0]["name"] == "clock"
    assert isinstance(called.tool_calls[0]["args"]["zone"], str)
    library = library.OpenAIEmbeddings(
        base_url=f"{address}/v1", api_key="none", model="tiny", check_embedding_ctx_length=False
    )
    assert len(library.embed_query("hello")) == 32
