"""Presets have the sizes that were published."""

from __future__ import annotations

import pytest
import torch

from langwright.model import (
    ModelConfig,
    Transformer,
    model_config,
    parameter_count,
    preset_names,
    summary,
    weight_bytes,
)
from langwright.model.published import PUBLISHED

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
    assert round(weight_bytes(config) / 2**20, 2) == mib


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
    assert round(counts.head * 4 / 2**20, 2) == 147.24
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


@pytest.mark.parametrize("name", preset_names())
def test_presets_build(name):
    config = model_config({"preset": name})
    assert parameter_count(config).total > 0
    assert len(preset_names()[name]) > 10
    assert "parameters" in summary(config)


# Numbers of the models' own cards and files (safetensors headers on the hub).
PUBLISHED_TOTALS = {
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096,
    "qwen2.5-0.5b": 494_032_768,
    "qwen3-0.6b": 596_049_920,
    "gemma-2-2b": 2_614_341_888,
    "gemma-3-1b": 999_885_952,
    "olmo-2-7b": 7_298_617_344,
    "phi-3-mini": 3_821_079_552,
    "smollm2-135m": 134_515_008,
    "smollm3-3b": 3_075_098_624,
    "mixtral-8x7b": 46_702_792_704,
    "qwen3-30b-a3b": 30_532_122_624,
    "deepseek-v3": 671_026_419_200,
    # less the biases of 24 routers of 32 experts, and of the experts' three matrices
    "gpt-oss-20b": 20_914_757_184 - 24 * 32 * (1 + 3 * 2880),
    "pythia-160m": 162_322_944,
}


@pytest.mark.parametrize("name", [*PUBLISHED_TOTALS, *V25])
def test_published_models_have_their_published_size(name):
    config = model_config({"preset": name})
    with torch.device("meta"):
        model = Transformer(config)
    built = sum(p.numel() for p in model.parameters())
    assert built == parameter_count(config).total
    assert built == (PUBLISHED_TOTALS[name] if name in PUBLISHED_TOTALS else V25[name][2])


def test_every_published_preset_is_counted():
    assert set(PUBLISHED) == set(PUBLISHED_TOTALS)


@pytest.mark.parametrize(
    "name,billions", [("mixtral-8x7b", 12.9), ("qwen3-30b-a3b", 3.35), ("deepseek-v3", 37.55)]
)
def test_active_parameters(name, billions):
    """As published: 12.9, 3.3 and 37 billion."""
    counts = parameter_count(model_config({"preset": name}))
    assert counts.active / 1e9 == pytest.approx(billions, abs=0.05)
    frozen = 58 * 256 if name == "deepseek-v3" else 0
    assert counts.total - counts.trainable == frozen
