"""Counts against the book's figures, and against models that are really built."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.model import (
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
    preset_names,
    summary,
    training_memory,
    weight_bytes,
)

MIB = 2**20
# Fact V25: untied without qkv bias, tied without, tied with (true GPT-2), MiB of the first.
V25 = {
    "gpt2-124m": (163_009_536, 124_412_160, 124_439_808, 621.83),
    "gpt2-355m": (406_212_608, 354_749_440, 354_823_168, 1549.58),
    "gpt2-774m": (838_220_800, 773_891_840, 774_030_080, 3197.56),
    "gpt2-1558m": (1_637_792_000, 1_557_380_800, 1_557_611_200, 6247.68),
}


def total(**table):
    return parameter_count(model_config(table)).total


@pytest.mark.parametrize("name", V25)
def test_gpt2_sizes(name):
    untied, tied, true, mib = V25[name]
    assert total(preset=name, tied=False, qkv_bias=False) == untied
    assert total(preset=name, qkv_bias=False) == tied
    assert total(preset=name) == true
    config = model_config({"preset": name, "tied": False, "qkv_bias": False})
    assert round(weight_bytes(config) / MIB, 2) == mib


def test_gpt2_small_by_part():
    """Facts V24, V24b, V25b, V31, G10."""
    book = model_config({"preset": "gpt2-124m", "qkv_bias": False, "tied": False})
    counts = parameter_count(book)
    assert counts.feedforward // 12 == 4_722_432 == 8 * 768**2 + 5 * 768
    assert counts.attention // 12 == 2_360_064 == 4 * 768**2 + 768
    assert (counts.feedforward + counts.attention + counts.norm - 2 * 768) // 12 == 7_085_568
    with_bias = parameter_count(book.replace(qkv_bias=True))
    assert (with_bias.feedforward + with_bias.attention + with_bias.norm - 1536) // 12 == 7_087_872
    assert counts.head == 38_597_376 == counts.embedding - counts.positions
    assert counts.positions == 786_432
    assert round(counts.head * 4 / MIB, 2) == 147.24
    assert total(preset="gpt2-124m", qkv_bias=False, tied=False, context_length=256) == 162_419_712
    assert total(preset="gpt2-124m", qkv_bias=False, context_length=256) == 123_822_336
    padded = parameter_count(model_config({"preset": "gpt2-124m", "vocab_size": 50304}))
    assert padded.total == 124_475_904
    assert padded.non_embedding == 123_689_472  # nanoGPT's N
    assert counts.total - counts.head == 124_412_160  # G8: total less the head


def test_gpt3_and_gpt1():
    """Facts V27b, X5."""
    gpt3 = ModelConfig(
        vocab_size=50257,
        context_length=2048,
        width=12288,
        layers=96,
        heads=96,
        feedforward="gelu_tanh",
        position="learned",
        norm="layernorm",
        norm_bias=True,
        qkv_bias=True,
        attention_out_bias=True,
        feedforward_bias=True,
    )
    assert pytest.approx(173.9e9, rel=1e-3) == 12 * 96 * 12288**2
    assert parameter_count(gpt3).total == pytest.approx(174.6e9, rel=1e-3)
    assert parameter_count(model_config({"preset": "gpt1-117m"})).total == 116_534_784


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


def test_exact_flops_are_what_torch_counts(monkeypatch):
    from torch.utils.flop_counter import FlopCounterMode

    # torch does not count its fused CPU attention; the written-out form it does
    monkeypatch.setattr("langwright.model.attention.attend", attention_reference)
    config = model_config({"preset": "qwen3-2m"}, vocab_size=64)
    model = build_model(config)
    ids = torch.randint(0, 64, (2, 16))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(ids)
    counted = counter.get_total_flops() / ids.numel()
    exact = matmul_flops_per_token(config, 16, training=False, causal=False)
    assert counted == pytest.approx(exact, rel=1e-9)


configs = st.builds(
    lambda **values: ModelConfig(**values),
    vocab_size=st.integers(1, 40),
    context_length=st.integers(1, 20),
    width=st.sampled_from([8, 24]),
    layers=st.integers(1, 3),
    heads=st.just(4),
    kv_heads=st.sampled_from([None, 1, 2]),
    head_width=st.sampled_from([None, 6]),
    hidden_width=st.sampled_from([None, 10]),
    qk_norm=st.booleans(),
    qkv_bias=st.booleans(),
    attention_out_bias=st.booleans(),
    feedforward=st.sampled_from(["gelu", "relu2", "swiglu", "geglu"]),
    feedforward_bias=st.booleans(),
    position=st.sampled_from(["learned", "sinusoidal", "rotary", "none"]),
    norm=st.just("layernorm"),
    norm_affine=st.just(True),
    norm_bias=st.booleans(),
    norm_placement=st.sampled_from(["pre", "post"]),
    tied=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(configs)
def test_arithmetic_equals_the_built_model(config):
    counts = parameter_count(config)
    with torch.device("meta"):
        model = Transformer(config)
    parts = {"attention": 0, "feedforward": 0, "norm": 0, "tokens": 0, "positions": 0, "head": 0}
    for name, parameter in model.named_parameters():
        part = next(p for p in ("attention.", "feedforward.", "norm", *parts) if p in name).rstrip(
            "."
        )
        parts[part] += parameter.numel()
    assert counts.attention == parts["attention"]
    assert counts.feedforward == parts["feedforward"]
    assert counts.norm == parts["norm"]
    assert counts.embedding == parts["tokens"] + parts["positions"]
    assert counts.positions == parts["positions"]
    assert counts.head == parts["head"]
    assert counts.total == counts.trainable == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", preset_names())
def test_presets_build(name):
    config = model_config({"preset": name})
    assert parameter_count(config).total > 0
    assert len(preset_names()[name]) > 10
    assert "parameters" in summary(config)


def test_known_shapes():
    assert total(preset="qwen3-0.6b") == 596_049_920  # as its model card: 0.6B, 0.44B w/o embedding
    assert total(preset="llama-1b") == 1_235_814_400  # Llama 3.2 1B
    assert total(preset="llama-15m") == pytest.approx(15.2e6, rel=1e-3)


def test_memory_estimate_is_sixteen_bytes_and_activations():
    config = model_config({"preset": "gpt2-char-10m"})
    n = parameter_count(config).total
    memory = training_memory(config, 16384)
    assert memory.weights + memory.gradients + memory.optimizer == 16 * n
    assert memory.total == 16 * n + memory.activations + memory.logits
    assert training_memory(config, 32768).activations == 2 * memory.activations
    assert training_memory(config, 16384, recompute=True).activations < memory.activations / 4


def test_activation_estimate_is_what_autograd_keeps():
    """Bytes of the tensors saved for the backward pass, counted once per storage."""
    config = model_config({"preset": "qwen3-2m", "norm_affine": False}, vocab_size=64)
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
