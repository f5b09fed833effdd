"""Counts against the book's figures, and against models that are really built."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.model import (
    KVCache,
    ModelConfig,
    Transformer,
    attention_reference,
    build_model,
    flops_per_token,
    kv_cache_bytes,
    matmul_flops_per_token,
    model_config,
    module_tree,
    parameter_count,
    summary,
    training_memory,
)

MIB = 2**20


def test_kv_cache_bytes():
    """Fact FM12: GPT-2 small, 1,024 tokens, fp16: 36 MiB; grouped keys shrink it."""
    config = model_config({"preset": "gpt2-124m"})
    assert kv_cache_bytes(config, 1024) == 36 * MIB
    assert kv_cache_bytes(config.replace(kv_heads=3), 1024) == 9 * MIB
    assert kv_cache_bytes(config, 1024, batch=2, bytes_per_value=4) == 144 * MIB


def test_flops():
    """Fact FM14: 6N + 12LdT for training, a third of it forward."""
    config = model_config({"preset": "gpt2-char-10m"})
    n = parameter_count(config).non_embedding
    assert n == 10_646_784
    assert flops_per_token(config, 256) == 6 * n + 12 * 6 * 384 * 256
    assert flops_per_token(config, 256, training=False) * 3 == flops_per_token(config, 256)
    exact = matmul_flops_per_token(config, 256, causal=False)
    assert exact == pytest.approx(flops_per_token(config, 256), rel=2e-3)
    untied = config.replace(tied=False)
    assert flops_per_token(untied, 256) == flops_per_token(config, 256)  # a lookup costs nothing


MIXED = {
    "plain": {"kv_heads": 2, "qk_norm": True},
    "ungated": {"feedforward": "gelu", "tied": False},
    "experts": {
        "layers": 3,
        "experts": {"count": 6, "chosen": 2, "hidden_width": 20, "shared_width": 12},
        "expert_layers": [False, True, True],
    },
    "shared-gate": {
        "experts": {"count": 4, "chosen": 3, "shared_width": 8, "shared_gate": True},
    },
    "latent": {"latent": {"kv_rank": 10, "query_rank": 14, "rotary_width": 4, "value_width": 6}},
    "latent-without-query-rank": {"latent": {"kv_rank": 10, "rotary_width": 4}},
    "fastest": {
        "layers": 3,
        "kv_heads": 2,
        **dict.fromkeys(("residual_scalars", "value_embeddings", "smear", "backout"), True),
    },
}


def small(**table):
    return ModelConfig(
        **{"vocab_size": 64, "context_length": 32, "width": 24, "layers": 2, "heads": 4, **table}
    )


@pytest.mark.parametrize("name", MIXED)
def test_exact_flops_are_what_torch_counts(name, monkeypatch):
    from torch.utils.flop_counter import FlopCounterMode

    # torch does not count its fused CPU attention, nor our operators; the written-out forms it does
    monkeypatch.setattr("langwright.model.attention.attend", attention_reference)
    monkeypatch.setattr("langwright.model.experts.grouped_linear", one_product_for_each)
    config = small(**MIXED[name])
    model = build_model(config)
    ids = torch.randint(0, 64, (2, 16))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    combining = 0  # torch also counts the weighted sum of the experts' outputs
    if config.experts:
        moe = sum(config.has_experts(i) for i in range(config.layers))
        combining = moe * 2 * config.experts.chosen * config.width
    counted = counter.get_total_flops() / ids.numel() - combining
    exact = matmul_flops_per_token(config, 16, training=False, causal=False)
    assert counted == pytest.approx(exact, rel=1e-9)


def one_product_for_each(x, weight, counts):
    parts = x.split(counts.tolist())
    return torch.cat([part @ matrix.T for part, matrix in zip(parts, weight, strict=True)])


def test_causal_flops_count_every_score_that_is_seen():
    """Facts FM14; local layers see at most their window."""
    config = small(layers=3, window=5, reach=["local", "local", "global"])
    seen = sum(2 * min(t, 5) + t for t in range(1, 17)) / 16
    matrices = matmul_flops_per_token(config, 16, False, causal=False) - 3 * 16 * 4 * 24
    assert matmul_flops_per_token(config, 16, False) == pytest.approx(matrices + seen * 4 * 24)
    n = parameter_count(config).non_embedding
    assert flops_per_token(config, 16) == 6 * n + 12 * 24 * (5 + 5 + 16)
    assert flops_per_token(config, 3) == 6 * n + 12 * 24 * 9


def test_flops_of_experts_are_of_those_visited():
    config = small(experts={"count": 8, "chosen": 2, "hidden_width": 32})
    two = config.replace(experts={"count": 2, "chosen": 2, "hidden_width": 32})
    router = 2 * 6 * 24  # rows of the router for six more experts, in two layers
    assert flops_per_token(config, 16) == flops_per_token(two, 16) + 6 * router


CACHED = {
    "plain": {},
    "grouped": {"kv_heads": 2, "head_width": 10},
    "window": {"window": 6},
    "window-beyond": {"window": 30},
    "some-local": {"layers": 3, "window": 5, "reach": ["local", "global"]},
    "latent": {"latent": {"kv_rank": 10, "rotary_width": 4}},
}


@pytest.mark.parametrize("name", CACHED)
def test_cache_bytes_are_those_of_the_cache(name):
    config = small(**CACHED[name])
    cache = KVCache(config, batch=3, capacity=20)
    held = {id(kept): kept for layer in cache.layers for kept in layer.kept}
    assert sum(kept.nbytes for kept in held.values()) == kv_cache_bytes(config, 20, 3, 4)


ATTENTIONS = [
    {},
    {"kv_heads": 1, "attention_sinks": True},
    {"kv_heads": 2, "head_width": 6, "qk_norm": True, "qk_norm_over": "all"},
    {"qk_norm": True, "attention_sinks": True},
    {"position": "learned"},
    {"position": "sinusoidal", "window": 3},
    {"position": "none"},
    {"position": "alibi"},
    {"position": "relative", "relative_buckets": 6, "relative_distance": 9},
]
LATENTS = [
    {"latent": {"kv_rank": 5, "rotary_width": 2}},
    {"latent": {"kv_rank": 5, "query_rank": 7, "rotary_width": 4, "value_width": 3}},
]
EXPERTS = [
    {"experts": {"count": 3, "chosen": 2}},
    {"experts": {"count": 4, "chosen": 1, "hidden_width": 5}, "expert_layers": [True, False]},
    {
        "experts": {
            "count": 4,
            "chosen": 2,
            "scores": "sigmoid",
            "selection_bias": True,
            "shared_width": 6,
            "shared_gate": True,
        }
    },
]
FEEDFORWARDS = [
    {"feedforward": kind, "feedforward_bias": bias}
    for kind in ("gelu", "relu2", "swiglu", "geglu_tanh")
    for bias in (True, False)
]
NORMS = [
    {"norm": "layernorm", "norm_bias": True},
    {"norm": "layernorm", "norm_placement": "post"},
    {"norm": "layernorm", "norm_bias": True, "parallel": True},
]
RMSNORMS = [
    {"norm_placement": "sandwich", "norm_offset": True},
    {"norm_placement": "output"},
    {"norm_affine": False, "norm_placement": "sandwich"},
]


def any_of(*groups):
    """A table that joins one of each group and one of the plain fields."""
    plain = st.fixed_dictionaries(
        {
            "vocab_size": st.integers(1, 40),
            "context_length": st.integers(1, 20),
            "width": st.sampled_from([8, 24]),
            "layers": st.integers(1, 3),
            "heads": st.just(4),
            "hidden_width": st.sampled_from([None, 10]),
            "qkv_bias": st.booleans(),
            "attention_out_bias": st.booleans(),
            "tied": st.booleans(),
            "head_bias": st.booleans(),
            "embedding_norm": st.booleans(),
        }
    )
    parts = [plain, *(st.sampled_from(group) for group in groups)]
    return st.tuples(*parts).map(lambda tables: {k: v for t in tables for k, v in t.items()})


configs = st.one_of(
    any_of(ATTENTIONS, FEEDFORWARDS, NORMS + RMSNORMS),
    any_of(ATTENTIONS, EXPERTS, NORMS + RMSNORMS),
    any_of(LATENTS, FEEDFORWARDS + EXPERTS, RMSNORMS),
).map(lambda table: ModelConfig(**table))


@settings(max_examples=80, deadline=None)
@given(configs)
def test_arithmetic_equals_the_built_model(config):
    counts = parameter_count(config)
    with torch.device("meta"):
        model = Transformer(config)
    parts = {"attention": 0, "feedforward": 0, "norm": 0, "tokens": 0, "positions": 0, "head": 0}
    for name, parameter in model.named_parameters():
        part = next(p for p in ("attention.", "feedforward.", "norm", *parts) if p in name)
        parts[part.rstrip(".")] += parameter.numel()
    assert counts.attention == parts["attention"]
    assert counts.feedforward == parts["feedforward"]
    assert counts.norm == parts["norm"]
    assert counts.embedding == parts["tokens"] + parts["positions"]
    assert counts.positions == parts["positions"]
    assert counts.head == parts["head"]
    assert counts.total == sum(p.numel() for p in model.parameters())
    assert counts.trainable == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counts.active == counts.total - sum(
        m.gate[m.experts.chosen :].numel() * 3
        for m in model.modules()
        if hasattr(m, "experts") and hasattr(m, "gate")
    )


def test_known_shapes():
    assert parameter_count(model_config({"preset": "llama-15m"})).total == pytest.approx(
        15.2e6, rel=1e-3
    )


def test_memory_estimate_is_sixteen_bytes_and_activations():
    config = model_config({"preset": "gpt2-char-10m"})
    n = parameter_count(config).total
    memory = training_memory(config, 16384)
    assert memory.weights + memory.gradients + memory.optimizer == 16 * n
    assert memory.total == 16 * n + memory.activations + memory.logits
    assert training_memory(config, 32768).activations == 2 * memory.activations
    assert training_memory(config, 16384, recompute=True).activations < memory.activations / 4


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"norm_placement": "sandwich"},
        {"norm_placement": "output"},
        {"experts": {"count": 4, "chosen": 2, "hidden_width": 200, "shared_width": 100}},
        {"residual_scalars": True, "value_embeddings": True, "smear": True, "backout": True},
        {"qk_norm": False, "kv_heads": 5, "latent": {"kv_rank": 64, "rotary_width": 16}},
    ],
)
def test_activation_estimate_is_what_autograd_keeps(more):
    """Bytes of the tensors saved for the backward pass, counted once per storage."""
    table = {"preset": "qwen3-2m", "norm_affine": False, **more}
    config = model_config(table, vocab_size=64)
    model = build_model(config)
    ids = torch.randint(0, 64, (4, 64))
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model.hidden(ids).sum()
    estimate = training_memory(config, ids.numel(), bytes_per_value=4).activations
    assert sum(kept.values()) == pytest.approx(estimate, rel=0.25)
    assert loss.requires_grad


def test_module_tree_lists_and_counts():
    """Fact G11."""
    model = build_model(model_config({"preset": "qwen3-2m"}, vocab_size=100))
    tree = module_tree(model)
    assert tree.splitlines()[0].split() == ["Transformer", "Transformer", f"{1_107_616 + 16_000:,}"]
    assert "0-3 (each of 4)" in tree and "Linear 160 -> 448" in tree
    assert len(module_tree(model, depth=1).splitlines()) == 4


def test_experts_and_windows_are_told():
    table = module_tree(build_model(small(experts={"count": 3, "chosen": 2, "shared_width": 8})))
    assert "ExpertFeedForward 3 x 24 -> 64, 2 chosen" in table
    text = summary(model_config({"preset": "deepseek-v3"}))
    assert "8 of 256 experts of width 2048 and a shared one of 2048 in 58 of 61 layers" in text
    assert "671,026,419,200 (37,552,297,472 for one token)" in text
    assert "latent vector of 512" in text and "yarn x 40" in text
    text = summary(model_config({"preset": "gemma-2-2b"}))
    assert "13 of 26 layers see the last 4,096 tokens" in text
