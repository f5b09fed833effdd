"""Config, positions, norms, activations: each against its formula or the book's figures."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from langwright.base import UserError
from langwright.model import (
    LayerNorm,
    ModelConfig,
    RMSNorm,
    model_config,
    rotary_tables,
    rotate,
    sinusoids,
)
from langwright.model.feedforward import ACTIVATIONS, build_feedforward
from langwright.model.linear import Embedding


@pytest.mark.parametrize(
    "table,words",
    [
        ({"heads": 6, "kv_heads": 4}, ["heads (6)", "kv_heads (4)"]),
        ({"width": 100, "heads": 6}, ["width (100)", "heads (6)", "head_width"]),
        ({"head_width": 7}, ["rotary", "head_width (7)"]),
        ({"width": 9, "heads": 3, "position": "sinusoidal"}, ["even width"]),
        ({"norm": "rmsnorm", "norm_bias": True}, ["norm_bias", "layernorm"]),
        ({"norm": "layernorm", "norm_bias": True, "norm_affine": False}, ["norm_affine"]),
        ({"layres": 3}, ["layres", "layers"]),
        ({"dropout_residual": 1.0}, ["dropout_residual"]),
        ({"feedforward": "swishglu"}, ["feedforward", "swiglu"]),
        ({"reach": ["local", "global"]}, ["window"]),
        ({"window": 4, "reach": ["global"]}, ["no local layer"]),
        ({"norm_offset": True, "norm": "layernorm"}, ["norm_offset", "rmsnorm"]),
        ({"norm_offset": True, "norm_affine": False}, ["norm_offset", "norm_affine"]),
        ({"parallel": True, "norm_placement": "sandwich"}, ["parallel", "pre"]),
        ({"experts": {"count": 4, "chosen": 5}}, ["experts.chosen (5)", "count (4)"]),
        ({"experts": {"count": 6, "groups": 4}}, ["multiple of groups"]),
        (
            {"experts": {"count": 8, "chosen": 3, "groups": 4, "groups_chosen": 1}},
            ["more than the chosen groups hold"],
        ),
        ({"experts": {"shared_gate": True}}, ["shared_gate", "shared_width"]),
        ({"experts": {}, "feedforward": "gelu"}, ["gated", "swiglu"]),
        ({"experts": {}, "feedforward_bias": True}, ["without bias"]),
        ({"expert_layers": [True]}, ["expert_layers needs experts"]),
        ({"experts": {}, "expert_layers": [False]}, ["no layer experts"]),
        ({"experts": {"cuont": 4}}, ["cuont", "count"]),
        ({"latent": {}, "position": "alibi"}, ["latent", "rotary"]),
        ({"latent": {}, "kv_heads": 2}, ["latent", "kv_heads"]),
        ({"latent": {}, "qk_norm": True}, ["qk_norm"]),
        ({"latent": {}, "norm": "layernorm"}, ["rmsnorm"]),
        ({"latent": {"rotary_width": 3}}, ["latent.rotary_width", "even"]),
        ({"position": "none", "rotary_scaling": {"kind": "ntk"}}, ["rotary_scaling", "none"]),
        ({"rotary_scaling": {"kind": "longrope"}}, ["short_factors"]),
        (
            {"rotary_scaling": {"kind": "longrope", "short_factors": [1], "long_factors": [1]}},
            ["32", "found 1"],
        ),
        ({"rotary_scaling": {"kind": "llama3", "high_frequency": 1}}, ["high_frequency"]),
        ({"rotary_base_local": 100.0}, ["rotary_base_local", "window"]),
        ({"rotary_share": 0.01}, ["rotary_share"]),
        (
            {"position": "relative", "relative_buckets": 64, "relative_distance": 32},
            ["relative_distance (32)"],
        ),
    ],
)
def test_config_mistakes_are_told(table, words):
    with pytest.raises(UserError) as error:
        ModelConfig.parse({"vocab_size": 10, **table}, where="my.toml [model]")
    for word in ["my.toml [model]", *words]:
        assert word in str(error.value)
    with pytest.raises(ValidationError):
        ModelConfig(**{"vocab_size": 10, **table})


def test_presets_and_overrides():
    config = model_config({"preset": "qwen3-5m", "layers": 3}, vocab_size=777)
    assert (config.layers, config.vocab_size, config.width, config.qk_norm) == (3, 777, 256, True)
    assert model_config({"preset": "gpt2-124m"}).vocab_size == 50257
    assert model_config({"vocab_size": 1024}, vocab_size=1000).vocab_size == 1024  # padded
    with pytest.raises(UserError, match="qwen3-5m"):
        model_config({"preset": "qwen3-5"})
    with pytest.raises(UserError, match="at least 1000"):
        model_config({"vocab_size": 999}, vocab_size=1000)
    with pytest.raises(UserError, match=r"recipe\.toml"):
        model_config({"preset": "qwen3-5m", "widht": 3}, where="recipe.toml")


def test_defaults_of_widths():
    config = ModelConfig(vocab_size=10, width=384, heads=6)
    assert (config.key_heads, config.head_size, config.hidden_size) == (6, 64, 1024)
    assert config.replace(feedforward="gelu").hidden_size == 1536
    for family, (h, width) in {"gpt2-124m": (12, 768), "gpt2-1558m": (25, 1600)}.items():  # V20
        preset = model_config({"preset": family})
        assert (preset.heads, preset.width, preset.head_size) == (h, width, 64)


def test_embedding_is_a_one_hot_product():
    """Facts D1, D2, V8."""
    torch.manual_seed(123)
    table = Embedding(6, 3)
    with torch.no_grad():
        table.weight.copy_(torch.nn.Embedding(6, 3).weight)
    ids = torch.tensor([2, 3, 5, 1])
    rows = table(ids)
    expected = torch.tensor([[1.2753, -0.2010, -0.1606], [-0.4015, 0.9666, -1.1481]])
    torch.testing.assert_close(rows[:2], expected, atol=5e-5, rtol=0)
    one_hot = torch.nn.functional.one_hot(ids, 6).float()
    torch.testing.assert_close(one_hot @ table.weight, rows)


def test_sinusoids_are_the_formula():
    """Fact FM11."""
    table = sinusoids(torch.arange(50), 8)
    for p in (0, 1, 49):
        for i in range(4):
            angle = p / 10000 ** (2 * i / 8)
            assert table[p, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-5)
            assert table[p, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-5)


def test_rotary_is_the_formula_and_relative():
    """Facts D6, FM11: pair i turns by p base^(-2i/h); the product depends on p - q only."""
    h, base = 8, 500.0
    x = torch.randn(1, 1, 1, h)
    cos, sin = rotary_tables(torch.tensor([37]), h, base)
    turned = rotate(x, cos, sin)[0, 0, 0]
    for i in range(h // 2):
        pair = torch.complex(x[0, 0, 0, i], x[0, 0, 0, i + h // 2])
        pair = pair * torch.exp(torch.tensor(1j * 37 * base ** (-2 * i / h)))
        assert turned[i].item() == pytest.approx(pair.real.item(), abs=1e-5)
        assert turned[i + h // 2].item() == pytest.approx(pair.imag.item(), abs=1e-5)
    q, k = torch.randn(1, 1, 1, h), torch.randn(1, 1, 1, h)

    def product(p, r):
        a = rotate(q, *rotary_tables(torch.tensor([p]), h, base))
        b = rotate(k, *rotary_tables(torch.tensor([r]), h, base))
        return (a * b).sum().item()

    assert product(5, 2) == pytest.approx(product(105, 102), abs=1e-4)
    assert product(5, 2) != pytest.approx(product(5, 3), abs=1e-3)
    by_row = rotary_tables(torch.tensor([[0, 37], [37, 1]]), h, base)
    assert by_row[0].shape == (2, 1, 2, h // 2)
    torch.testing.assert_close(by_row[0][0, 0, 1], cos[0])


def test_layernorm_of_the_book():
    """Facts F1, V21, FM8, with the biased variance."""
    torch.manual_seed(123)
    batch = torch.randn(2, 5)
    layer = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.ReLU())
    out = layer(batch)
    normed = LayerNorm(6, 1e-5, affine=True, bias=True)(out)
    expected = torch.tensor([0.6159, 1.4126, -0.8719, 0.5872, -0.8719, -0.8719])
    biased = (out[0] - out[0].mean()) / (out[0].var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(normed[0], biased, atol=1e-5, rtol=1e-5)
    unbiased = (out[0] - out[0].mean()) / out[0].var().sqrt()  # as the figure is printed
    torch.testing.assert_close(unbiased, expected, atol=5e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [5, 3000])
def test_rmsnorm_is_the_formula(rows, dtype):
    """Facts F3, FM8; statistics in fp32, so that large values do not overflow or drown."""
    norm = RMSNorm(64, 1e-5, affine=True)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    x = torch.randn(rows, 64, dtype=dtype) * 100
    wide = x.float()
    formula = norm.weight * wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(norm(x).float(), formula, atol=tolerance, rtol=tolerance)
    assert norm(x).dtype == dtype


@pytest.mark.parametrize("rows", [5, 9000])
def test_rmsnorm_with_offset_is_gemmas(rows):
    """The scale is 1 + weight, made in fp32; equal to Transformers' module in value and gradient,
    in the plain and in the sliced form."""
    from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

    norm, theirs = RMSNorm(64, 1e-6, affine=True, offset=True), Gemma2RMSNorm(64, 1e-6)
    assert (norm.weight == 0).all()
    with torch.no_grad():
        norm.weight.normal_()
        theirs.weight.copy_(norm.weight)
    x = torch.randn(rows, 64, requires_grad=True)
    torch.testing.assert_close(norm(x), theirs(x), atol=1e-6, rtol=1e-5)
    up = torch.randn(rows, 64)
    mine = torch.autograd.grad(norm(x), (x, norm.weight), up)
    expected = torch.autograd.grad(theirs(x), (x, theirs.weight), up)
    for a, b in zip(mine, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    low = x.detach().bfloat16()
    equal = (norm(low) == theirs(low)).float().mean().item()  # the weight was never rounded to bf16
    assert equal > 0.998


def test_activations():
    """Facts F4-F6, FM9, V23."""
    x = torch.tensor([-1.0, 0.5, 1.0, 3.0])
    tanh = torch.tensor([-0.15881, 0.34571, 0.84119, 2.99636])
    exact = torch.tensor([-0.15866, 0.34573, 0.84134, 2.99595])
    torch.testing.assert_close(ACTIVATIONS["gelu_tanh"](x), tanh, atol=6e-6, rtol=0)
    torch.testing.assert_close(ACTIVATIONS["gelu"](x), exact, atol=6e-6, rtol=0)
    grid = torch.linspace(-6, 6, 2001)
    gap = (ACTIVATIONS["gelu"](grid) - ACTIVATIONS["gelu_tanh"](grid)).abs().max()
    assert 4e-4 < gap < 6e-4
    lowest = ACTIVATIONS["gelu"](grid)
    assert lowest.min().item() == pytest.approx(-0.170, abs=5e-4)
    assert grid[lowest.argmin()].item() == pytest.approx(-0.752, abs=5e-3)
    assert ACTIVATIONS["relu2"](torch.tensor([-2.0, 3.0])).tolist() == [0.0, 9.0]
    torch.testing.assert_close(ACTIVATIONS["silu"](x), x * torch.sigmoid(x))
    for gated, plain in (("swiglu", "silu"), ("geglu", "gelu"), ("geglu_tanh", "gelu_tanh")):
        assert torch.equal(ACTIVATIONS[gated](grid), ACTIVATIONS[plain](grid))


@pytest.mark.parametrize("kind", ["swiglu", "geglu", "geglu_tanh", "gelu_tanh", "relu", "silu"])
def test_feedforward_is_the_formula(kind):
    config = ModelConfig(vocab_size=5, width=6, heads=1, hidden_width=10, feedforward=kind)
    layer = build_feedforward(config)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    x = torch.randn(2, 3, 6)
    act = ACTIVATIONS[kind]
    if config.gated:
        expected = (act(x @ layer.gate.weight.T) * (x @ layer.up.weight.T)) @ layer.down.weight.T
    else:
        expected = act(x @ layer.up.weight.T) @ layer.down.weight.T
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["gelu_tanh", "silu"])
def test_activations_as_the_compiler_reads_them(name):
    """Spelt out where blocks are compiled for a CPU; far out on both sides too."""
    plain = {"silu": F.silu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}[name]
    traced = torch.compile(ACTIVATIONS[name], backend="aot_eager", fullgraph=True)
    x = torch.linspace(-40, 40, 4001, dtype=torch.float64, requires_grad=True)
    results = [(y := form(x), *torch.autograd.grad(y.sum(), x)) for form in (traced, plain)]
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-13, rtol=1e-12)
