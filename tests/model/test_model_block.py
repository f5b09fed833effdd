"""Blocks: each placement of the norms by its formula; what is in a layer; where dropout falls."""

from __future__ import annotations

import pytest
import torch

from langwright.model import Block, ExpertFeedForward, ModelConfig, build_model
from langwright.model.feedforward import FeedForward, GatedFeedForward

BASE = {"vocab_size": 20, "context_length": 16, "width": 16, "layers": 2, "heads": 2}
OUT_NORMS = {"attention_out_norm", "feedforward_out_norm"}
IN_NORMS = {"attention_norm", "feedforward_norm"}


def block_of(**table):
    """A block whose every parameter is random, with norm scales far from 1."""
    block = Block(ModelConfig(**{**BASE, **table}))
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(0.3, 0.4)
    return block


FORMULAS = {
    "pre": lambda b, f, norm, out, x: x + f(norm(x)),
    "post": lambda b, f, norm, out, x: norm(x + f(x)),
    "output": lambda b, f, norm, out, x: x + out(f(x)),
    "sandwich": lambda b, f, norm, out, x: x + out(f(norm(x))),
}


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("placement", FORMULAS)
def test_placements_are_their_formulas(placement, norm):
    b = block_of(norm_placement=placement, norm=norm)
    x = torch.randn(2, 7, 16)
    expected = x
    for branch in ("attention", "feedforward"):
        inner = getattr(b, f"{branch}_norm", None)
        outer = getattr(b, f"{branch}_out_norm", None)
        expected = FORMULAS[placement](b, getattr(b, branch), inner, outer, expected)
    torch.testing.assert_close(b(x), expected, atol=1e-6, rtol=1e-6)
    assert (expected - x).std() > 0.3


@pytest.mark.parametrize(
    "placement,norms",
    [
        ("pre", IN_NORMS),
        ("post", IN_NORMS),
        ("output", OUT_NORMS),
        ("sandwich", IN_NORMS | OUT_NORMS),
    ],
)
def test_parameter_names(placement, norms):
    """Files are read by these names."""
    names = {
        name.split(".")[0] for name, _ in block_of(norm_placement=placement).named_parameters()
    }
    assert names == {"attention", "feedforward"} | norms


def test_parallel_branches_read_the_same_stream():
    """GPT-NeoX: x + attention(norm(x)) + feedforward(norm'(x))."""
    b = block_of(parallel=True, norm="layernorm", norm_bias=True, feedforward="gelu")
    x = torch.randn(2, 7, 16)
    expected = x + b.attention(b.attention_norm(x)) + b.feedforward(b.feedforward_norm(x))
    torch.testing.assert_close(b(x), expected, atol=1e-6, rtol=1e-6)
    b.parallel = False
    assert (b(x) - expected).abs().max() > 0.1


def test_feedforward_of_each_layer():
    config = ModelConfig(**{**BASE, "layers": 4}, experts={"count": 3}, expert_layers=[False, True])
    kinds = [type(block.feedforward) for block in build_model(config).blocks]
    assert kinds == [GatedFeedForward, ExpertFeedForward] * 2
    assert type(Block(config.replace(experts=None, expert_layers=None)).feedforward) is (
        GatedFeedForward
    )
    assert type(block_of(feedforward="relu2").feedforward) is FeedForward
    gate = ExpertFeedForward(config, config.experts).gate
    assert gate.shape == (3, config.hidden_size, 16)  # the model's hidden width where none is said


@pytest.mark.parametrize("placement", ["output", "sandwich"])
def test_dropout_falls_on_the_branch_as_it_is_added(placement):
    """With nearly every value dropped, most of x passes unchanged; a norm after the dropout would
    mix it into all of them."""
    b = block_of(norm_placement=placement, norm="layernorm", dropout_residual=0.9).train()
    x = torch.randn(8, 50, 16)
    unchanged = (b(x) == x).float().mean().item()
    assert unchanged == pytest.approx(0.81, abs=0.03)  # dropped in both branches
    assert (b.eval()(x) == x).float().mean() < 0.01


def test_fresh_blocks_scale_by_one():
    """A fresh norm multiplies by 1: Gemma's weights, one less than the scale, start at 0."""
    for offset in (True, False):
        config = ModelConfig(
            **BASE,
            norm_offset=offset,
            norm_placement="sandwich",
            qk_norm=True,
            attention_sinks=True,
        )
        model = build_model(config, seed=3)
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                assert (parameter == (0 if offset else 1)).all(), name
            elif parameter.dim() == 1:
                assert (parameter == 0).all(), name
            else:
                assert parameter.std() > 0, name
    names = [name for name, _ in model.named_parameters() if name.endswith("norm.weight")]
    assert len(names) == 2 * 6 + 1


@pytest.mark.parametrize("init", ["gpt2", "modern"])
def test_experts_start_each_like_a_matrix(init):
    """Fan-in and the smaller start of matrices that write to the stream hold for experts too."""
    config = ModelConfig(
        vocab_size=20, width=64, heads=2, layers=2, init=init,
        experts={"count": 8, "hidden_width": 96, "shared_width": 128, "selection_bias": True},
    )  # fmt: skip
    f = build_model(config, seed=1).blocks[1].feedforward
    expected = {"gate": 0.02, "down": 0.01, "router.weight": 0.02, "shared.down.weight": 0.01}
    if init == "modern":
        expected = {
            "gate": 64**-0.5,
            "down": 0.0,
            "router.weight": 64**-0.5,
            "shared.down.weight": 0.0,
            "shared.gate.weight": 64**-0.5,
        }
    parameters = dict(f.named_parameters())
    for name, std in expected.items():
        assert parameters[name].std().item() == pytest.approx(std, rel=0.1), name
    assert (parameters["router.bias"] == 0).all()
    assert not torch.equal(f.gate[0], f.gate[1])
