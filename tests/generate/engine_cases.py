"""Tiny models of every family, and the plain way to say what the engine must answer."""

from __future__ import annotations

from typing import Any

import torch

from langwright.generate import Engine, EngineConfig, LanguageModel, RequestOutput, SamplingParams
from langwright.generate.paged_cache import follows_length
from langwright.model import ModelConfig, Transformer, build_model, model_config

V = 40
LATENT = {"kv_rank": 12, "query_rank": 10, "rotary_width": 4, "value_width": 7}
LONGROPE = {
    "kind": "longrope",
    "factor": 2.0,
    "original_context": 16,
    "short_factors": (1.0, 1.1, 1.2),
    "long_factors": (1.5, 3.0, 9.0),
}

# What the presets do not have, and combinations that interact.
OPTIONS: dict[str, dict[str, Any]] = {
    "alibi": {"position": "alibi", "kv_heads": 2},
    "relative": {"position": "relative", "relative_buckets": 6, "relative_distance": 9},
    "sinusoidal-post": {"position": "sinusoidal", "norm_placement": "post"},
    "none": {"position": "none", "feedforward": "relu"},
    "window-of-one": {"window": 1, "reach": ("local", "global")},
    "window-alibi": {"window": 5, "reach": ("global", "local"), "position": "alibi"},
    "window-uneven-kinds": {"window": 6, "reach": ("local", "local", "global"), "layers": 6},
    "window-relative": {
        "window": 9,
        "reach": ("local", "global"),
        "position": "relative",
        "relative_buckets": 4,
        "relative_distance": 8,
    },
    "softcap-sinks-window": {
        "attention_softcap": 3.0,
        "attention_sinks": True,
        "window": 7,
        "kv_heads": 2,
        "reach": ("local", "global"),
        "rotary_base_local": 100.0,
    },
    "ntk": {"rotary_scaling": {"kind": "ntk", "factor": 2.0, "original_context": 16}},
    "longrope": {"rotary_scaling": LONGROPE},
    "longrope-window": {"rotary_scaling": LONGROPE, "window": 6, "reach": ("local", "global")},
    "fastest-window": {
        "residual_scalars": True,
        "value_embeddings": True,
        "smear": True,
        "backout": True,
        "position": "learned",
        "window": 6,
        "reach": ("local", "global"),
        "layers": 3,
    },
    "smear-longrope": {"smear": True, "rotary_scaling": LONGROPE},
    "latent-window": {
        "latent": {"kv_rank": 4, "rotary_width": 2, "value_width": 3},
        "head_width": 6,
        "window": 5,
        "reach": ("global", "local"),
    },
}


def preset(name: str) -> ModelConfig:
    """A preset's family in a few thousand parameters: its choices stay, its sizes go."""
    values = model_config({"preset": name}).model_dump()
    ratio = values["heads"] // (values["kv_heads"] or values["heads"])
    values |= {
        "vocab_size": V,
        "context_length": 64,
        "width": 24,
        "layers": min(4, values["layers"]),
        "heads": 4,
        "kv_heads": {1: None, 2: 2}.get(ratio, 1),
        "head_width": 8,
        "hidden_width": 20,
    }
    if values["window"]:
        values["window"] = 7
        if values["reach"] and len(values["reach"]) > 4:
            values["reach"] = ("local", "local", "global")
    if values["latent"]:
        values["latent"] = LATENT
    if values["experts"]:
        values["experts"] |= {"count": 4, "chosen": 2, "hidden_width": 9, "groups": 2}
        values["experts"] |= {"groups_chosen": 1 if values["experts"]["selection_bias"] else 2}
        values["experts"] |= {"shared_width": 5 if values["experts"]["shared_width"] else 0}
        values["expert_layers"] = (False, True) if values["expert_layers"] else None
    if values["rotary_scaling"]:
        values["rotary_scaling"] |= {"original_context": 16}
    return ModelConfig.parse(values)


def options(name: str) -> ModelConfig:
    """One of `OPTIONS`."""
    base = {"vocab_size": V, "context_length": 64, "width": 24, "layers": 2, "heads": 4}
    return ModelConfig.parse({**base, **OPTIONS[name]})


def random_model(config: ModelConfig, dtype: torch.dtype = torch.float32) -> Transformer:
    """Every parameter random, so that all of them matter."""
    model = build_model(config, seed=1)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() > 1 else 0.2))
            if parameter.dim() == 1 and name.endswith("weight"):
                parameter += 1.0
    model.compute_dtype = dtype
    return model


def engine_of(model: Transformer, **settings: Any) -> Engine:
    """An engine with small blocks."""
    return Engine(LanguageModel(model, None), EngineConfig(**{"block_tokens": 4, **settings}))


def prompts_of(*lengths: int, seed: int = 5) -> list[list[int]]:
    """Random prompts."""
    torch.manual_seed(seed)
    return [torch.randint(0, V, (length,)).tolist() for length in lengths]


def check_exact(
    model: Transformer, prompts: list[list[int]], outputs: list[RequestOutput], tolerance: float
) -> None:
    """Every token is the plain uncached forward's choice, and the engine's log-probabilities are
    those of that forward. For greedy answers with log-probabilities."""
    for prompt, output in zip(prompts, outputs, strict=True):
        for answer in output.answers:
            assert answer.ids and answer.logprobs is not None
            text = prompt + answer.ids
            wanted = uncached_logprobs(model, text, len(prompt))  # (answer, V)
            ids = torch.tensor(answer.ids)
            own = wanted.gather(-1, ids[:, None])[:, 0]
            found = torch.tensor(answer.logprobs, dtype=own.dtype)
            torch.testing.assert_close(found, own, atol=tolerance, rtol=0)
            assert (wanted.amax(-1) - own).abs().max() <= tolerance


def uncached_logprobs(model: Transformer, text: list[int], prompt: int) -> torch.Tensor:
    """Log-probabilities (answer, V) at each place of the answer, from the plain forward."""
    model.eval()
    with torch.no_grad():
        if not follows_length(model.config):
            logits = model(torch.tensor([text]))[0, prompt - 1 : -1]
        else:  # every token turns otherwise in a longer text: each is read afresh
            ends = range(prompt, len(text))
            logits = torch.stack([model(torch.tensor([text[:end]]))[0, -1] for end in ends])
    return logits.double().log_softmax(-1)


GREEDY = SamplingParams(temperature=0, max_tokens=14, logprobs=0)


def check_empty(engine: Engine) -> None:
    """Nothing is held by anybody."""
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.cache_used_pages, stats.vector_bytes) == (0,) * 4
    pool = engine._scheduler.pool
    engine.forget()
    assert sorted(pool._free) == list(range(2, 2 + pool.total)) and not pool._known


def break_on(engine: Engine, token: int) -> None:
    """A pass that reads `token` in a piece of a prompt fails."""
    plain = engine._stepper.hidden

    def hidden(ids: torch.Tensor, *more: Any) -> torch.Tensor:
        if bool((ids == token).any()) and ids.shape[1] > 1:
            raise RuntimeError("out of memory")
        return plain(ids, *more)

    engine._stepper.hidden = hidden
