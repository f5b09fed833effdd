"""Texts for measurement come from the engine, and are those of the plain loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from langwright.base import UserError
from langwright.evaluate import complete_prompts
from langwright.generate import LanguageModel, Sampling, generate_tokens
from langwright.model import Transformer
from langwright.tokenizer import CharTokenizer

# Greedy, and with seeds; equal prompts of equal seed draw different texts.
WAYS = [
    Sampling(temperature=0.0, max_tokens=9),
    Sampling(temperature=1.0, top_p=1.0, max_tokens=40, seed=5, stop=["e", "x!"]),
]
SHAPES: list[dict[str, Any]] = [{}, {"position": "rotary", "window": 5, "reach": ("local",)}]


@pytest.mark.parametrize("params", WAYS)
@pytest.mark.parametrize("changes", SHAPES)
def test_they_are_those_of_the_plain_loop(
    tiny_model: Callable[..., Transformer],
    tokenizer: CharTokenizer,
    params: Sampling,
    changes: dict[str, Any],
) -> None:
    model = tiny_model(**changes).train()
    lm = LanguageModel(model, tokenizer)
    prompts = [list(range(3, 3 + length)) for length in (1, 31, 7, 7, 20)]
    prompts += [[one] for one in range(70)]  # more than run at a time
    found = complete_prompts(lm, prompts, params)
    plain = generate_tokens(model, prompts, params, tokenizer.stop_ids, tokenizer=tokenizer)
    assert [(one.ids, one.text, one.stop_id, one.finish_reason) for one in found] == [
        (one.ids, one.text, one.stop_id, one.finish_reason) for one in plain
    ]
    assert len(found[1].ids) <= 1 and model.training  # the context's end; the mode is as before
    assert params.seed is None or found[2].ids != found[3].ids


def test_an_answer_that_is_missing_is_no_answer(
    tiny_model: Callable[..., Transformer],
    tokenizer: CharTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = LanguageModel(tiny_model(), tokenizer)
    assert complete_prompts(lm, [], WAYS[0]) == []
    with pytest.raises(UserError, match="longer than the model's context"):
        complete_prompts(lm, [[1], [2] * 32], WAYS[0])

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setattr(lm.model, "logits", broken)
    with pytest.raises(UserError, match="no memory left"):
        complete_prompts(lm, [[1], [2]], WAYS[0])
