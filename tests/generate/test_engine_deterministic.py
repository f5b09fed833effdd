"""With `deterministic`, a text is the same to the last bit, whoever else is there."""

from __future__ import annotations

import pytest
import torch
from engine_cases import V, engine_of, options, preset, prompts_of, random_model

from langwright.base import UserError
from langwright.generate import EngineConfig, SamplingParams

PARAMS = SamplingParams(temperature=8.0, seed=9, max_tokens=12, logprobs=V)
CASES = {"llama-2m": preset, "gemma-3-1b": preset, "alibi": options}


def exact(output):
    """Ids and every log-probability, bit for bit."""
    answer = output.answers[0]
    return answer.ids, answer.logprobs, answer.top_logprobs


def wide(name):
    """Wide enough for kernels that cut rows up; a context of two pieces."""
    config = CASES[name](name).replace(context_length=200, width=64, heads=4, hidden_width=96)
    return config if name == "alibi" else config.replace(head_width=16)


@pytest.mark.parametrize("name", CASES)
def test_alone_and_in_any_batch(name):
    model = random_model(wide(name))
    model.compute_dtype = torch.bfloat16  # the coarser, the sooner a difference shows
    settings = {"deterministic": True, "max_running": 4, "step_tokens": 150}
    alone = engine_of(model, **settings, prefix_reuse=False)
    shared = prompts_of(140)[0]
    prompts = [shared, [*shared[:136], 1, 2], *prompts_of(7, 33), shared[:129]]
    wanted = [exact(alone.generate([prompt], PARAMS)[0]) for prompt in prompts]

    for reuse in (True, False):
        engine = engine_of(model, **settings, prefix_reuse=reuse)
        requests = [engine.submit(prompt, PARAMS) for prompt in prompts]
        while not all(request.finished for request in requests):
            engine.step()
            if engine.stats().steps in (2, 5, 9):  # as if memory had run out
                for text in engine._scheduler.running[::2]:
                    engine._scheduler._preempt(text)
        assert [exact(one.result()) for one in requests] == wanted
        assert engine.stats().preemptions >= 3
        assert engine.stats().reused_tokens == (2 * 128 if reuse else 0)


def test_excludes_what_would_break_it():
    with pytest.raises(UserError, match="exclude"):
        EngineConfig.parse({"deterministic": True, "speculate": "ngram"})
    with pytest.raises(UserError, match="step_tokens"):
        EngineConfig.parse({"deterministic": True, "max_running": 8, "step_tokens": 100})
    with pytest.raises(UserError, match="step_tokens"):
        EngineConfig.parse({"max_running": 8, "step_tokens": 4})
