"""Latent attention beside transformers' DeepSeek-V3, and the cache that it makes small."""

from __future__ import annotations

import pytest
import torch

from langwright.model import KVCache, ModelConfig, build_model, kv_cache_bytes
from langwright.model.guide import build_guides

PAIRS = {  # our parameter -> theirs
    "q": "q_proj",
    "q_down": "q_a_proj",
    "q_down_norm": "q_a_layernorm",
    "q_up": "q_b_proj",
    "kv_down": "kv_a_proj_with_mqa",
    "kv_norm": "kv_a_layernorm",
    "kv_up": "kv_b_proj",
    "out": "o_proj",
}
YARN = {"factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 0.8}


def config_of(query_rank, interleaved, yarn, **more):
    return ModelConfig(
        vocab_size=8,
        width=48,
        heads=4,
        head_width=6,
        layers=2,
        context_length=512,
        norm_eps=1e-6,
        qkv_bias=query_rank is not None,
        attention_out_bias=query_rank is not None,
        latent={"kv_rank": 10, "query_rank": query_rank, "rotary_width": 8, "value_width": 5},
        rotary_interleaved=interleaved,
        rotary_scaling={"kind": "yarn", "original_context": 64, "mscale_all": 1.2, **YARN}
        if yarn
        else None,
        **more,
    )


def theirs(query_rank, interleaved, yarn):
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
        DeepseekV3Attention,
        DeepseekV3RotaryEmbedding,
    )

    rope = {"rope_theta": 10_000.0, "rope_type": "default"}
    if yarn:
        rope |= {**YARN, "rope_type": "yarn", "mscale_all_dim": 1.2}
        rope["original_max_position_embeddings"] = 64
    config = DeepseekV3Config(
        hidden_size=48,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=query_rank,
        kv_lora_rank=10,
        qk_rope_head_dim=8,
        qk_nope_head_dim=6,
        v_head_dim=5,
        attention_bias=query_rank is not None,
        rope_interleave=interleaved,
        rope_parameters=rope,
        max_position_embeddings=512,
        attn_implementation="eager",
    )
    return DeepseekV3Attention(config, 0), DeepseekV3RotaryEmbedding(config)


@pytest.mark.parametrize("query_rank", [None, 7])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("yarn", [False, True])
def test_equals_deepseek_v3(query_rank, interleaved, yarn):
    reference, rotary = theirs(query_rank, interleaved, yarn)
    config = config_of(query_rank, interleaved, yarn)
    model = build_model(config)
    ours = model.blocks[0].attention
    with torch.no_grad():
        for mine, name in PAIRS.items():
            if not hasattr(ours, mine):
                continue
            module = getattr(reference, name)
            for kind, parameter in module.named_parameters():
                parameter.copy_(torch.randn_like(parameter) * 0.4 + (parameter.dim() == 1))
                getattr(getattr(ours, mine), kind).copy_(parameter)
    expected_names = {f"{n}.{k}" for n, m in PAIRS.items() for k in ("weight", "bias")}
    assert {name for name, _ in ours.named_parameters()} <= expected_names
    reference, x = reference.double(), torch.randn(2, 80, 48, dtype=torch.float64)
    mask = torch.full((80, 80), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    positions = torch.arange(80)
    expected, _ = reference(x, rotary(x, positions[None]), mask)
    found = ours(x, build_guides(config, positions, dtype=torch.float64)[0])
    assert expected.std() > 0.5
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)


def test_few_queries_stay_in_the_latent(monkeypatch):
    """Decoding multiplies the held tokens by no matrix; a long prompt is spread."""
    model = build_model(config_of(None, False, False)).eval()
    attention = model.blocks[0].attention
    calls = []
    for name in ("_in_the_latent", "_spread"):
        form = getattr(attention, name)
        monkeypatch.setattr(
            attention, name, lambda *a, form=form, name=name: calls.append(name) or form(*a)
        )
    cache = KVCache(model.config, 1, 100)
    for count in (13, 12, 1):
        model(torch.zeros(1, count, dtype=torch.int64), cache=cache)
        cache.advance(count)
    model(torch.zeros(1, 3, dtype=torch.int64))
    # r (n + g) / (2 r - n - g) = 10 * 11 / 9: up to 12 queries.
    assert calls == ["_spread", "_in_the_latent", "_in_the_latent", "_spread"]


@pytest.mark.parametrize(
    "config",
    [
        config_of(None, False, False),
        config_of(None, False, False, window=16, reach=("local", "global")),
        ModelConfig(vocab_size=8, width=48, heads=4, kv_heads=2, layers=3, window=16),
        ModelConfig(vocab_size=8, width=48, heads=4, layers=3, window=1000),
        ModelConfig(vocab_size=8, width=48, heads=6, layers=5, window=7, reach=("local", "global")),
    ],
)
def test_the_cache_is_as_small_as_counted(config):
    cache = KVCache(config, 3, 100)
    assert cache.bytes == kv_cache_bytes(config, 100, batch=3, bytes_per_value=4)
