"""The dial: settings that follow from depth, or from a budget."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.model import flops_per_token, model_config
from langwright.plan import dial_depth, dial_flops
from langwright.plan.dial import scaling_parameters, shape_of_depth

TABLE = {"preset": "langwright-fast-85m", "vocab_size": 32768, "context_length": 2048}


# Of the rules' source, at 12 tokens for each of N: depth -> (width, tokens in billions, batch as a
# power of two, updates, decay).
PUBLISHED = {
    8: (512, 0.50, 18, 1920, 0.52),
    12: (768, 1.32, 19, 2520, 0.28),
    16: (1024, 2.8, 19, 5376, 0.131),
    20: (1280, 5.2, 20, 4980, 0.100),
    24: (1536, 8.8, 20, 8352, 0.060),
    32: (2048, 20.1, 21, 9600, 0.037),
}


@pytest.mark.parametrize("depth", PUBLISHED)
def test_depth_gives_the_published_settings(depth: int) -> None:
    width, billions, power, updates, decay = PUBLISHED[depth]
    made = dial_depth(depth, TABLE, sequence_length=2048)
    assert made.shape["width"] == width and made.shape["layers"] == depth
    assert made.tokens / 1e9 == pytest.approx(billions, rel=0.02)
    assert made.batch_tokens == 2**power
    assert made.tokens // made.batch_tokens == updates
    assert made.weight_decay == pytest.approx(decay, abs=0.003)
    assert made.lr == pytest.approx(0.02 * math.sqrt(2**power / 2**19), rel=1e-3)
    narrow = (width / 768) ** -0.5
    assert made.head_lr == pytest.approx(0.4 * made.lr * narrow, rel=1e-3)


@given(st.floats(min_value=14.0, max_value=22.0))
@settings(max_examples=25, deadline=None)
def test_a_budget_is_used_up_and_not_passed(exponent: float) -> None:
    flops = 10**exponent
    made = dial_flops(flops, TABLE | {"vocab_size": 4096}, sequence_length=512)
    assert made.flops == pytest.approx(flops, rel=1e-3) and made.flops <= flops
    config = shape_of_depth(made.depth, TABLE | {"vocab_size": 4096})
    ratio = made.tokens / scaling_parameters(config)
    assert ratio >= 12.0
    if made.depth < 80:  # one layer more would not leave 12 tokens for each parameter
        deeper = shape_of_depth(made.depth + 1, TABLE | {"vocab_size": 4096})
        assert 12 * scaling_parameters(deeper) * flops_per_token(deeper, 512) > flops


def test_small_models_get_many_updates_of_whole_rows() -> None:
    made = dial_depth(2, TABLE | {"vocab_size": 1024}, sequence_length=512)
    assert made.batch_tokens % 512 == 0
    assert made.tokens // made.batch_tokens >= 1000
    assert made.lr == 0.01  # not below the rate of the smallest batch that was swept


def test_a_presets_proportions_are_kept() -> None:
    made = dial_depth(8, {"preset": "smollm2-135m"}, sequence_length=512)
    config = model_config({"preset": "smollm2-135m", **made.shape})
    assert config.heads // config.key_heads == 8 // 2  # 9 to 3 in the preset; 8 divides by 2
    assert config.hidden_size / config.width == pytest.approx(1536 / 576, rel=0.05)


def test_what_the_table_says_itself_stays() -> None:
    made = dial_depth(12, TABLE | {"hidden_width": 1000}, sequence_length=512)
    assert "hidden_width" not in made.shape


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="no such depth"):
        dial_depth(0, TABLE, sequence_length=512)
    with pytest.raises(UserError, match="too small"):
        dial_flops(1e9, TABLE, sequence_length=512)
