"""Mixture of experts: equal to the sum written out, to Transformers' modules, and to itself
compiled; router losses by their formulas."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from langwright.model import ExpertFeedForward, ModelConfig, router_losses
from langwright.model.experts import Router
from langwright.model.feedforward import ACTIVATIONS
from langwright.model.grouped_linear import grouped_linear
from langwright.model.router_losses import balance_loss, z_loss

ROUTINGS = {
    "mixtral": {"count": 4, "chosen": 2},
    "one": {"count": 5, "chosen": 1, "normalise": False},
    "all": {"count": 3, "chosen": 3},
    "raw": {"count": 6, "chosen": 3, "normalise": False, "weight_scale": 1.5},
    "shared": {"count": 4, "chosen": 2, "shared_width": 7, "shared_gate": True},
    "softmax-groups": {"count": 8, "chosen": 3, "groups": 4, "groups_chosen": 2},
    "deepseek-v3": {
        "count": 8,
        "chosen": 2,
        "scores": "sigmoid",
        "weight_scale": 2.5,
        "selection_bias": True,
        "groups": 4,
        "groups_chosen": 2,
        "shared_width": 6,
    },
    "groups-of-one": {
        "count": 4,
        "chosen": 2,
        "scores": "sigmoid",
        "groups": 4,
        "groups_chosen": 3,
    },
}


def layer_of(dtype=torch.float32, feedforward="swiglu", width=12, **experts):
    experts = {"hidden_width": 10, **experts}
    config = ModelConfig(
        vocab_size=5, width=width, heads=1, feedforward=feedforward, experts=experts
    )
    layer = ExpertFeedForward(config, config.experts).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.5)
    return layer


def written_out(layer, x):
    """Every expert on every token, one token at a time, choices by sorting."""
    e, act = layer.experts, torch.nn.functional.silu
    rows = []
    for token in x.flatten(0, -2):
        logits = layer.router.weight @ token
        scores = logits.softmax(-1) if e.scores == "softmax" else torch.sigmoid(logits)
        choice = scores.detach() + (layer.router.bias if e.selection_bias else 0)
        size = e.count // e.groups
        best = 1 if e.scores == "softmax" else min(2, size)
        value = []
        for group in range(e.groups):
            members = choice[group * size : (group + 1) * size].tolist()
            value.append(sum(sorted(members)[-best:]))
        groups = sorted(range(e.groups), key=lambda g: -value[g])[: e.groups_chosen]
        allowed = [i for i in range(e.count) if i // size in groups]
        chosen = sorted(allowed, key=lambda i: -choice[i].item())[: e.chosen]
        weights = scores[chosen]
        weights = (weights / weights.sum() if e.normalise else weights) * e.weight_scale
        y = sum(
            w * (layer.down[i] @ (act(layer.gate[i] @ token) * (layer.up[i] @ token)))
            for i, w in zip(chosen, weights, strict=True)
        )
        if layer.shared is not None:
            shared = layer.shared(token)
            if layer.shared_gate is not None:
                shared = shared * torch.sigmoid(layer.shared_gate.weight[0] @ token)
            y = y + shared
        rows.append(y)
    return torch.stack(rows).view_as(x)


@pytest.mark.parametrize("name", ROUTINGS)
def test_output_and_gradients_equal_the_sum_written_out(name):
    layer = layer_of(torch.float64, **ROUTINGS[name])
    x = torch.randn(2, 9, 12, dtype=torch.float64, requires_grad=True)
    learned = [p for p in layer.parameters() if p.requires_grad]
    mine, expected = layer(x), written_out(layer, x)
    assert expected.std() > 0.1
    torch.testing.assert_close(mine, expected, atol=1e-12, rtol=1e-10)
    weight = torch.randn_like(mine)
    a = torch.autograd.grad((mine * weight).sum(), [x, *learned])
    b = torch.autograd.grad((expected * weight).sum(), [x, *learned], materialize_grads=True)
    for one, other in zip(a, b, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-9)


def reference(name):
    """Transformers' module, and our options that mean the same."""
    if name == "mixtral":
        from transformers.models.mixtral import modeling_mixtral as m

        config = m.MixtralConfig(
            hidden_size=12, intermediate_size=10, num_local_experts=4, num_experts_per_tok=2
        )
        return m.MixtralSparseMoeBlock(config), {"count": 4, "chosen": 2}
    if name == "qwen3":
        from transformers.models.qwen3_moe import modeling_qwen3_moe as m

        config = m.Qwen3MoeConfig(
            hidden_size=12, moe_intermediate_size=10, num_experts=6, num_experts_per_tok=3
        )
        config.norm_topk_prob = False
        return m.Qwen3MoeSparseMoeBlock(config), {"count": 6, "chosen": 3, "normalise": False}
    if name == "qwen2":
        from transformers.models.qwen2_moe import modeling_qwen2_moe as m

        config = m.Qwen2MoeConfig(
            hidden_size=12,
            moe_intermediate_size=10,
            shared_expert_intermediate_size=7,
            num_experts=6,
            num_experts_per_tok=3,
            norm_topk_prob=True,
        )
        ours = {"count": 6, "chosen": 3, "shared_width": 7, "shared_gate": True}
        return m.Qwen2MoeSparseMoeBlock(config), ours
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as m

    config = m.DeepseekV3Config(
        hidden_size=12,
        moe_intermediate_size=10,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_shared_experts=2,
        n_group=4,
        topk_group=2,
    )
    return m.DeepseekV3MoE(config), {**ROUTINGS["deepseek-v3"], "shared_width": 20}


@pytest.mark.parametrize("name", ["mixtral", "qwen3", "qwen2", "deepseek-v3"])
def test_equals_transformers(name):
    theirs, options = reference(name)
    layer = layer_of(**options)
    with torch.no_grad():
        theirs.gate.weight.copy_(layer.router.weight)
        theirs.experts.gate_up_proj.copy_(torch.cat((layer.gate, layer.up), dim=1))
        theirs.experts.down_proj.copy_(layer.down)
        if layer.router.bias is not None:
            theirs.gate.e_score_correction_bias.copy_(layer.router.bias)
        if layer.shared is not None:
            shared = getattr(theirs, "shared_expert", None) or theirs.shared_experts
            for part in ("gate", "up", "down"):
                getattr(shared, f"{part}_proj").weight.copy_(getattr(layer.shared, part).weight)
        if layer.shared_gate is not None:
            theirs.shared_expert_gate.weight.copy_(layer.shared_gate.weight)
    x = torch.randn(3, 11, 12)
    expected = theirs(x)
    torch.testing.assert_close(layer(x), expected, atol=2e-5, rtol=1e-5)
    assert expected.std() > 0.1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_grouped_linear_is_one_product_for_each_group(counts):
    x = torch.randn(sum(counts), 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(len(counts), 4, 3, dtype=torch.float64, requires_grad=True)
    out = grouped_linear(x, weight, torch.tensor(counts))
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    expected = torch.einsum("moi,mi->mo", weight[owner], x)
    torch.testing.assert_close(out, expected)
    if x.numel():
        up = torch.randn_like(out)
        mine = torch.autograd.grad(out, (x, weight), up)
        theirs = torch.autograd.grad(expected, (x, weight), up)
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b)


def test_the_operator_keeps_torchs_rules():
    x = torch.randn(5, 3, requires_grad=True)
    weight = torch.randn(3, 4, 3, requires_grad=True)
    torch.library.opcheck(grouped_linear, (x, weight, torch.tensor([2, 0, 3])))


def test_weights_stay_fp32_under_bf16():
    layer = layer_of(count=4, chosen=2, width=32)
    x = torch.randn(64, 32)
    low = layer(x[None].bfloat16())
    assert low.dtype == torch.bfloat16
    exact = layer(x[None].bfloat16().float())
    assert ((low.float() - exact).norm() / exact.norm()).item() < 0.02
    low.float().square().mean().backward()
    assert layer.gate.grad.dtype == torch.float32 and layer.gate.grad.abs().max() > 0
    assert layer.router.weight.grad.abs().max() > 0


def test_selection_bias_chooses_and_does_not_weigh():
    layer = layer_of(count=4, chosen=1, scores="sigmoid", selection_bias=True, normalise=False)
    x = torch.randn(20, 12)
    with torch.no_grad():
        layer.router.bias.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0]))
    routing = layer.router(x)
    assert (routing.chosen == 2).all()
    torch.testing.assert_close(routing.weights[:, 0], (x @ layer.router.weight[2]).sigmoid())
    assert not layer.router.bias.requires_grad
    assert "router.bias" in layer.state_dict()
    assert Router(12, layer_of(count=4, chosen=1).experts).bias is None


def test_an_expert_without_tokens_has_a_zero_gradient():
    layer = layer_of(count=4, chosen=1)
    x = torch.randn(1, 1, 12)
    layer(x).sum().backward()
    used = layer.router(x[0]).chosen.item()
    for expert in range(4):
        assert (layer.gate.grad[expert].abs().max() > 0) == (expert == used)


@pytest.mark.parametrize("activation", ["geglu", "geglu_tanh"])
def test_experts_take_the_configs_activation(activation):
    layer = layer_of(count=1, chosen=1, feedforward=activation)
    x = torch.randn(3, 12)
    inner = ACTIVATIONS[activation](x @ layer.gate[0].T) * (x @ layer.up[0].T)
    torch.testing.assert_close(layer(x), inner @ layer.down[0].T, atol=1e-5, rtol=1e-5)


def test_balance_loss():
    """Fedus et al. 2021, eq. 4: least where experts are used alike; Transformers' number."""
    even = torch.full((12, 4), 0.25)
    assert balance_loss(even, torch.tensor([6, 6, 6, 6])).item() == pytest.approx(2)
    sure = torch.eye(4)[torch.zeros(12, dtype=torch.int64)]
    assert balance_loss(sure, torch.tensor([12, 0, 0, 0])).item() == pytest.approx(4)
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    logits = torch.randn(50, 6) * 2
    counts = torch.bincount(logits.topk(2, dim=-1).indices.flatten(), minlength=6)
    mine = balance_loss(logits.softmax(-1), counts)
    torch.testing.assert_close(mine, load_balancing_loss_func((logits,), 6, 2))
    half = torch.rand(50, 6)  # scores that do not sum to 1 (sigmoid)
    torch.testing.assert_close(
        balance_loss(half, counts), balance_loss(half / half.sum(-1, keepdim=True), counts)
    )


def test_z_loss():
    logits = torch.randn(7, 5)
    expected = torch.tensor([row.exp().sum().log().item() ** 2 for row in logits]).mean()
    torch.testing.assert_close(z_loss(logits), expected)


def test_router_losses_are_weighted_means_over_layers_and_taken_once():
    layers = [layer_of(count=4, chosen=2, balance_loss=0.3, router_z_loss=0.1) for _ in range(2)]
    plain = layer_of(count=4, chosen=2)
    model = torch.nn.Sequential(*layers, plain)
    x = torch.randn(2, 10, 12)
    assert router_losses(model) is None
    model.eval()(x)
    assert router_losses(model) is None
    model.train()(x)
    twin = copy.deepcopy(model)  # a graph cannot be copied: the loss stays behind
    assert router_losses(twin) is None
    loss, expected, inner = router_losses(model), 0.0, x
    for layer in layers:
        routing = layer.router(inner.flatten(0, 1))
        counts = torch.bincount(routing.chosen.flatten(), minlength=4)
        expected += 0.3 * balance_loss(routing.scores, counts) + 0.1 * z_loss(routing.logits)
        inner = layer(inner)
    router_losses(model)
    torch.testing.assert_close(loss, expected / 2)
    loss.backward()
    assert layers[0].router.weight.grad.abs().max() > 1e-6
    assert router_losses(model) is None


def test_balance_loss_balances():
    """Descending the balance loss alone spreads a router that loves one expert."""
    torch.manual_seed(3)
    layer = layer_of(count=4, chosen=1, balance_loss=1.0, width=16)
    x = torch.randn(1, 400, 16) + 1.0
    with torch.no_grad():
        layer.router.weight.mul_(0.2)[0] += 0.3
    before = F.one_hot(layer.router(x[0]).chosen[:, 0], 4).float().mean(0).max()
    optimizer = torch.optim.Adam([layer.router.weight], lr=0.04)
    for _ in range(40):
        layer(x)
        router_losses(layer).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = F.one_hot(layer.router(x[0]).chosen[:, 0], 4).float().mean(0).max()
    assert before > 0.9 and after < 0.5


@pytest.mark.slow
def test_compiles_as_one_graph():
    layer = layer_of(count=4, chosen=2, balance_loss=0.5, shared_width=6)
    x = torch.randn(2, 9, 12)
    expected = layer(x)
    loss = router_losses(layer)
    grads = torch.autograd.grad(expected.square().sum() + loss, layer.gate)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=False)
    mine = compiled(x)
    again = router_losses(layer)
    torch.testing.assert_close(mine, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again, loss)
    mine_grads = torch.autograd.grad(mine.square().sum() + again, layer.gate)
    torch.testing.assert_close(mine_grads, grads, atol=1e-4, rtol=1e-4)
