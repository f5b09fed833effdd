"""The engine's answers are those of the plain uncached forward, whatever the load."""

from __future__ import annotations

import pytest
import torch
from engine_cases import (
    GREEDY,
    OPTIONS,
    V,
    check_exact,
    engine_of,
    options,
    preset,
    prompts_of,
    random_model,
    uncached_logprobs,
)

from langwright.generate import SamplingParams, generate_tokens
from langwright.model import preset_names

# One of each family; the others differ in size only.
FAMILIES = [
    *("gpt1-117m", "gpt2-124m", "gpt2-char-10m", "llama-2m", "qwen3-2m", "langwright-fast-1m"),
    *("llama-3-8b", "llama-3.2-1b", "mistral-7b", "qwen2.5-0.5b", "gemma-2-2b", "gemma-3-1b"),
    *("olmo-2-7b", "phi-3-mini", "smollm2-135m", "smollm3-3b", "mixtral-8x7b", "qwen3-30b-a3b"),
    *("deepseek-v3", "gpt-oss-20b", "pythia-160m", "langwright-fastest-1m"),
]
CONFIGS = {**dict.fromkeys(FAMILIES, preset), **dict.fromkeys(OPTIONS, options)}
PROMPTS = prompts_of(3, 21, 9, 1, 40, 9)


def test_families_are_presets():
    assert set(FAMILIES) <= set(preset_names())


# Pages for about one text and a half.
LITTLE = {
    "llama-2m": 20,
    "gpt2-124m": 20,
    "mistral-7b": 10,
    "gemma-3-1b": 45,
    "deepseek-v3": 20,
    "latent-window": 30,
    "longrope-window": 20,
    "window-uneven-kinds": 40,
    "langwright-fastest-1m": 20,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_fp32_equals_the_uncached_forward(name):
    """Ragged prompts in pieces beside texts that are being written."""
    model = random_model(CONFIGS[name](name))
    engine = engine_of(model, step_tokens=12, max_running=5)
    check_exact(model, PROMPTS, engine.generate(PROMPTS, GREEDY), 2e-4)
    assert engine.stats().cache_used_pages == 0


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("name", LITTLE)
def test_little_memory(name, reuse):
    """Texts give way to others, and are read again; the sums are the same to rounding."""
    model = random_model(CONFIGS[name](name), torch.float64)
    stats = engine_of(model).stats()
    each = stats.cache_bytes // (stats.cache_pages + 2)
    engine = engine_of(
        model,
        step_tokens=16,
        max_running=6,
        prefix_reuse=reuse,
        cache_bytes=each * (LITTLE[name] + 2),
    )
    assert engine.stats().cache_pages == LITTLE[name]
    prompts = prompts_of(3, 21, 9, 1, 30, 9, 12)
    check_exact(model, prompts, engine.generate(prompts, GREEDY.replace(max_tokens=20)), 1e-5)
    assert engine.stats().preemptions > 0
    assert engine.stats().cache_used_pages == 0


@pytest.mark.parametrize("name", LITTLE)
def test_prefix_reuse(name):
    """Prompts that begin alike, at once and one after the other; and a conversation's next turn,
    which begins with an answer."""
    model = random_model(CONFIGS[name](name), torch.float64)
    engine = engine_of(model, step_tokens=16, max_running=3)
    shared = prompts_of(18)[0]
    prompts = [shared + tail for tail in prompts_of(3, 1, 5, seed=8)]
    first = engine.generate(prompts, GREEDY)
    check_exact(model, prompts, first, 1e-5)
    again = [prompts[0] + first[0].answers[0].ids + [7, 8], shared[:13] + [3]]
    outputs = engine.generate(again, GREEDY)
    check_exact(model, again, outputs, 1e-5)
    if "longrope" in name:  # tokens turn by the length of their text
        assert engine.stats().reused_tokens == 0
        return
    assert [one.cached_tokens for one in first] == [0, 16, 16]
    assert [one.cached_tokens for one in outputs] == [32, 12]


def test_guesses_change_nothing():
    """Speculation by look-up, over windows too: the answers of the plain loop, token for token."""
    for name in ("gemma-3-1b", "llama-2m", "gpt2-124m", "deepseek-v3", "langwright-fastest-1m"):
        model = random_model(preset(name), torch.float64)
        prompts = [[1, 2, 3, 4] * 5, [5, 6] * 6, *prompts_of(9)]
        for params in (GREEDY, SamplingParams(temperature=0.4, seed=3, max_tokens=25, top_p=1.0)):
            wanted = generate_tokens(model, prompts, params)
            engine = engine_of(model, speculate="ngram")
            found = engine.generate(prompts, params)
            assert [one.answers[0].ids for one in found] == [one.ids for one in wanted]
            assert engine.stats().proposed_tokens > 0


def test_guesses_with_little_memory():
    """Blocks for guesses are taken only where they are free."""
    model = random_model(preset("llama-2m"), torch.float64)
    stats = engine_of(model).stats()
    each = stats.cache_bytes // (stats.cache_pages + 2)
    prompts = [[1, 2, 3, 4] * 5, [5, 6] * 6, [7, 8, 9] * 5]
    wanted = generate_tokens(model, prompts, GREEDY)
    engine = engine_of(model, speculate="ngram", speculate_tokens=8, cache_bytes=each * 17)
    assert [one.answers[0].ids for one in engine.generate(prompts, GREEDY)] == [
        one.ids for one in wanted
    ]
    assert engine.stats().preemptions > 0 and engine.stats().accepted_tokens > 0


@pytest.mark.parametrize("dtype", ["int8", "bf16", "fp16"])
def test_narrow_caches_are_near(dtype):
    """8 bits per value: the error of a value is at most 1/254 of its head's largest."""
    model = random_model(preset("qwen3-2m"))
    prompts = prompts_of(20, 30)
    text = [prompt + prompts_of(10, seed=9)[0] for prompt in prompts]
    wide, narrow = (
        engine_of(model, cache_dtype=kind).generate(text, GREEDY.replace(max_tokens=1, logprobs=V))
        for kind in ("fp32", dtype)
    )
    for a, b in zip(wide, narrow, strict=True):
        one, other = (dict(x.answers[0].top_logprobs[0]) for x in (a, b))
        difference = max(abs(one[token] - other[token]) for token in one)
        assert 0 < difference < 0.15


def test_sampled_logprobs_equal_recomputed_ones():
    model = random_model(preset("llama-2m"))
    prompts = prompts_of(5, 12, 30)
    params = SamplingParams(temperature=1.0, top_p=0.9, seed=4, max_tokens=20, logprobs=3)
    outputs = engine_of(model, max_running=2, step_tokens=9).generate(prompts, params)
    for prompt, output in zip(prompts, outputs, strict=True):
        answer = output.answers[0]
        wanted = uncached_logprobs(model, prompt + answer.ids, len(prompt))
        own = wanted.gather(-1, torch.tensor(answer.ids)[:, None])[:, 0]
        found = torch.tensor(answer.logprobs).double()
        torch.testing.assert_close(found, own, atol=1e-4, rtol=0)
        best = wanted.topk(3).values
        tops = torch.tensor([[value for _, value in top] for top in answer.top_logprobs])
        torch.testing.assert_close(tops.double(), best, atol=1e-4, rtol=0)


def test_equals_the_plain_loop_for_seeds():
    """The engine draws by the same numbers as `generate_tokens`, equal prompts differently."""
    model = random_model(preset("qwen3-2m"), torch.float64)
    prompts = [*prompts_of(4, 17), *prompts_of(4)]
    params = SamplingParams(temperature=1.2, seed=11, max_tokens=20)
    wanted = generate_tokens(model, prompts, params)
    found = engine_of(model, max_running=2).generate(prompts, params)
    assert [one.answers[0].ids for one in found] == [one.ids for one in wanted]
    assert found[0].answers[0].ids != found[2].answers[0].ids
