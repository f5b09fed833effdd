"""Scaled rotary angles beside transformers', and biases by distance beside their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.model import ModelConfig, build_model, rotary_tables, rotate
from langwright.model.config import RotaryScaling
from langwright.model.distance_bias import alibi, alibi_slopes, relative_buckets
from langwright.model.guide import build_guides
from langwright.model.rotary_scaling import frequencies, magnitude, score_scale

# Our scaling and transformers' words for it. The model's heads are 16 wide, its context 4096.
SCALINGS = {
    "linear": ({"kind": "linear", "factor": 3.0}, {"rope_type": "linear", "factor": 3.0}),
    "ntk": ({"kind": "ntk", "factor": 2.5}, {"rope_type": "dynamic", "factor": 2.5}),
    "yarn": (
        {"kind": "yarn", "factor": 16.0, "original_context": 256},
        {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 256},
    ),
    "yarn-borders": (
        {
            "kind": "yarn",
            "factor": 40.0,
            "original_context": 512,
            "truncate": False,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 0.7,
            "mscale_all": 1.3,
        },
        {
            "rope_type": "yarn",
            "factor": 40.0,
            "original_max_position_embeddings": 512,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 0.7,
            "mscale_all_dim": 1.3,
            "truncate": False,
        },
    ),
    "yarn-factor": (
        {"kind": "yarn", "factor": 4.0, "original_context": 1024, "attention_factor": 1.7},
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
            "attention_factor": 1.7,
        },
    ),
    "llama3": (
        {
            "kind": "llama3",
            "factor": 8.0,
            "original_context": 512,
            "low_frequency": 1.0,
            "high_frequency": 4.0,
        },
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "original_max_position_embeddings": 512,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
        },
    ),
    "longrope": (
        {
            "kind": "longrope",
            "factor": 16.0,
            "original_context": 256,
            "short_factors": tuple(1 + i / 10 for i in range(8)),
            "long_factors": tuple(2.0**i for i in range(8)),
        },
        {
            "rope_type": "longrope",
            "factor": 16.0,
            "original_max_position_embeddings": 256,
            "short_factor": [1 + i / 10 for i in range(8)],
            "long_factor": [2.0**i for i in range(8)],
        },
    ),
}


def theirs(words, base, length):
    """transformers' angles per token and stretch for texts of this length."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        hidden_size=64,
        num_attention_heads=4,
        max_position_embeddings=4096,
        rope_parameters={"rope_theta": base, **words},
    )
    return ROPE_INIT_FUNCTIONS[words["rope_type"]](config, "cpu", seq_len=length)


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("base", [10_000.0, 500_000.0])
@pytest.mark.parametrize("length", [100, 256, 257, 4096, 9000])
def test_scaled_angles_equal_transformers(name, base, length):
    ours, words = SCALINGS[name]
    scaling = RotaryScaling(**ours)
    expected, stretch = theirs(words, base, length)
    found = frequencies(16, base, scaling, 4096, torch.tensor(length))
    torch.testing.assert_close(found, expected, atol=0, rtol=2e-6)
    assert magnitude(scaling, 4096) == pytest.approx(stretch, rel=1e-12)
    positions = torch.arange(0, length, 37)
    cos, sin = rotary_tables(positions, 16, base, scaling, 4096, torch.tensor(length))
    angles = positions[:, None] * found
    torch.testing.assert_close(cos, angles.cos() * stretch, atol=2e-5, rtol=0)
    torch.testing.assert_close(sin, angles.sin() * stretch, atol=2e-5, rtol=0)


def test_texts_of_a_batch_turn_by_their_own_length():
    scaling = RotaryScaling(**SCALINGS["longrope"][0])
    positions = torch.arange(300).expand(2, -1)
    cos, _ = rotary_tables(positions, 16, 1e4, scaling, 0, torch.tensor([[256], [300]]))
    for row, length in ((0, 256), (1, 300)):
        alone, _ = rotary_tables(positions[0], 16, 1e4, scaling, 0, torch.tensor(length))
        torch.testing.assert_close(cos[row, 0], alone, atol=0, rtol=0)


def test_documents_of_a_row_turn_by_their_own_length():
    """Two documents in one row: one within the original context, one beyond it."""
    config = ModelConfig(
        vocab_size=8,
        width=64,
        heads=4,
        layers=1,
        rotary_scaling=SCALINGS["longrope"][0],
    )
    segments = torch.tensor([[0] * 100 + [1] * 300 + [-1] * 5])
    positions = torch.tensor([[*range(100), *range(300), *range(5)]])
    (guide,) = build_guides(config, positions, dtype=torch.float32, segments=segments)
    for part, length in ((slice(0, 100), 100), (slice(100, 400), 300)):
        (alone,) = build_guides(config, torch.arange(length), dtype=torch.float32)
        torch.testing.assert_close(guide.rotary[0][0, 0, part], alone.rotary[0], atol=0, rtol=0)
    whole = build_guides(config, torch.arange(300), dtype=torch.float32)[0].rotary[0]
    assert (guide.rotary[0][0, 0, :100] - whole[:100]).abs().max() > 0.1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 1000), st.booleans())
def test_turned_pairs_know_their_distance_only(p, r, shift, interleaved):
    """Of 10 values 6 turn; the product depends on p - r, the last 4 are untouched."""
    q, k = torch.randn(1, 1, 1, 10).double(), torch.randn(1, 1, 1, 10).double()

    def product(a, b):
        tables = [
            tuple(x.double() for x in rotary_tables(torch.tensor([n]), 6, 100.0)) for n in (a, b)
        ]
        turned = [rotate(x, *table, interleaved) for x, table in zip((q, k), tables, strict=True)]
        assert torch.equal(turned[0][..., 6:], q[..., 6:])
        return (turned[0] * turned[1]).sum().item()

    assert product(p + shift, r + shift) == pytest.approx(product(p, r), abs=3e-3)


def test_interleaved_is_a_reordering():
    """Of 10 values 8 turn."""
    q, k = torch.randn(1, 2, 9, 10), torch.randn(1, 2, 9, 10)
    tables = rotary_tables(torch.arange(9), 8, 10.0)
    order = [0, 2, 4, 6, 1, 3, 5, 7, 8, 9]  # neighbours to halves
    scores = rotate(q, *tables, True) @ rotate(k, *tables, True).mT
    halves = rotate(q[..., order], *tables) @ rotate(k[..., order], *tables).mT
    torch.testing.assert_close(scores, halves, atol=1e-5, rtol=1e-5)
    assert (scores - rotate(q, *tables) @ rotate(k, *tables).mT).abs().max() > 0.1
    neighbours = rotate(
        torch.tensor([[[[1.0, 0.0, 0.0, 1.0]]]]), torch.zeros(1, 2), torch.ones(1, 2), True
    )
    assert neighbours.flatten().tolist() == [0.0, 1.0, -1.0, 0.0]  # a quarter turn of each pair


@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12, 16, 20])
def test_alibi_slopes_equal_transformers(heads):
    from transformers.models.bloom.modeling_bloom import _get_alibi_slopes

    expected = _get_alibi_slopes(heads, torch.device("cpu"))
    torch.testing.assert_close(torch.tensor(alibi_slopes(heads)), expected, atol=0, rtol=1e-6)


def test_alibi_of_the_paper():
    """Eight heads: 1/2, 1/4, ... 1/256; the score falls by the slope per token (figure 3)."""
    assert alibi_slopes(8) == [2.0**-i for i in range(1, 9)]
    distances = torch.tensor([[[0, -1], [1, 0]]])
    assert alibi(distances, 2)[0, :, 1].tolist() == [[-1 / 16, 0.0], [-1 / 256, 0.0]]


@pytest.mark.parametrize("buckets,most", [(32, 128), (8, 20), (2, 9), (7, 100)])
def test_relative_buckets_equal_transformers(buckets, most):
    from transformers.models.t5.modeling_t5 import T5Attention

    distances = torch.arange(-3, 3 * most)
    expected = T5Attention._relative_position_bucket(
        -distances, bidirectional=False, num_buckets=buckets, max_distance=most
    )
    found = relative_buckets(distances, buckets, most)
    assert torch.equal(found, expected)
    assert found.min() == 0 and found.max() == buckets - 1


def test_deepseeks_scale():
    """1 / sqrt(n + p), times the square of 0.1 mscale ln(factor) + 1."""
    config = ModelConfig(
        vocab_size=8,
        width=64,
        heads=4,
        head_width=12,
        latent={"kv_rank": 8, "rotary_width": 4},
        rotary_scaling={"kind": "yarn", "factor": 40.0, "mscale": 1.0, "mscale_all": 1.0},
    )
    factor = 0.1 * math.log(40.0) + 1
    assert score_scale(config) == pytest.approx(factor**2 / 4.0)
    assert score_scale(config.replace(rotary_scaling=None)) == 0.25
    assert score_scale(config.replace(attention_scale=0.7)) == 0.7


@pytest.mark.parametrize(
    "options,kinds",
    [
        ({}, 1),
        ({"window": 4, "reach": ("local", "local", "global")}, 2),
        ({"window": 4, "reach": ("local", "global"), "rotary_layers": (True, False, False)}, 4),
    ],
)
def test_equal_layers_share_one_guide(options, kinds):
    config = ModelConfig(vocab_size=8, width=24, heads=4, layers=12, **options)
    guides = build_guides(config, torch.arange(9), dtype=torch.float32)
    assert len(guides) == 12 and len({id(guide) for guide in guides}) == kinds
    for layer, guide in enumerate(guides):
        assert (guide.mask is not None) == config.is_local(layer)
        assert (guide.rotary is not None) == config.turns(layer)


def test_local_layers_have_their_own_base_and_no_scaling():
    config = ModelConfig(
        vocab_size=8,
        width=24,
        heads=4,
        layers=2,
        window=4,
        reach=("local", "global"),
        rotary_base=1e6,
        rotary_base_local=100.0,
        rotary_scaling={"kind": "linear", "factor": 8.0},
    )
    local, whole = build_guides(config, torch.arange(20), dtype=torch.float32)
    expected = rotary_tables(torch.arange(20), 6, 100.0)
    torch.testing.assert_close(local.rotary, expected, atol=0, rtol=0)
    expected = rotary_tables(torch.arange(20) / 8, 6, 1e6)
    torch.testing.assert_close(whole.rotary, expected, atol=1e-6, rtol=0)


def test_a_learned_bias_is_read_by_distance():
    """With the bias -1000 for every distance but 2, each token sees the one two places back."""
    config = ModelConfig(
        vocab_size=8,
        width=8,
        heads=2,
        layers=1,
        position="relative",
        relative_buckets=16,
        relative_distance=32,
    )
    attention = build_model(config).blocks[0].attention
    guide = build_guides(config, torch.arange(6), dtype=torch.float32)[0]
    with torch.no_grad():
        attention.bias.fill_(-1000.0)
        attention.bias[2] = 0.0
        values = torch.randn(1, 2, 6, 4)
        y = attention.mix(torch.randn(1, 2, 6, 4), torch.randn(1, 2, 6, 4), values, guide)
    expected = values.transpose(1, 2).flatten(2)[:, :4]
    torch.testing.assert_close(y[:, 2:], expected, atol=1e-6, rtol=0)
