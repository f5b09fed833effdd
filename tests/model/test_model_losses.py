"""Cross entropy: the formula, torch's, and the chunked form agree."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from langwright.model import (
    ModelConfig,
    build_model,
    cross_entropy_reference,
    head_logits,
    linear_cross_entropy,
)


def problem(n=37, d=8, v=50, dtype=torch.float32):
    torch.manual_seed(1)
    hidden = torch.randn(n, d, dtype=dtype, requires_grad=True)
    weight = torch.randn(v, d, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, v, (n,))
    targets[::5] = -100
    return hidden, weight, targets


def plain(hidden, weight, targets):
    return F.cross_entropy(hidden @ weight.T, targets, reduction="sum")


@pytest.mark.parametrize("chunk", [None, 0, 1, 10, 37, 1000])
def test_chunked_equals_torch(chunk):
    hidden, weight, targets = problem()
    loss, count = linear_cross_entropy(hidden, weight, targets, chunk)
    expected = plain(hidden, weight, targets)
    assert count.item() == (targets != -100).sum().item()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    mine = torch.autograd.grad(loss / count * 3, (hidden, weight))
    torchs = torch.autograd.grad(expected / count * 3, (hidden, weight))
    for a, b in zip(mine, torchs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    assert (mine[0][::5] == 0).all()


@pytest.mark.parametrize("chunk", [4, 0])
def test_gradients_by_differences(chunk):
    hidden, weight, targets = problem(9, 3, 7, torch.float64)
    assert torch.autograd.gradcheck(
        lambda h, w: linear_cross_entropy(h, w, targets, chunk)[0], (hidden, weight)
    )


@pytest.mark.parametrize("chunk", [None, 0, 5])
@pytest.mark.parametrize("softcap", [None, 1.5, 30.0])
@pytest.mark.parametrize("with_bias", [True, False])
def test_cap_and_bias_equal_torch(softcap, with_bias, chunk):
    """Gemma 2's cap is inside the loss: c tanh(z / c), its slope in the gradients."""
    hidden, weight, targets = problem()
    bias = torch.randn(50, requires_grad=True) if with_bias else None
    logits = hidden @ weight.T + (bias if with_bias else 0)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    torch.testing.assert_close(head_logits(hidden, weight, bias, softcap), logits)
    expected = F.cross_entropy(logits, targets, reduction="sum")
    loss, _ = linear_cross_entropy(hidden, weight, targets, chunk, bias=bias, softcap=softcap)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    inputs = [hidden, weight] + [bias] * with_bias
    mine = torch.autograd.grad(loss * 0.3, inputs)
    theirs = torch.autograd.grad(expected * 0.3, inputs)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_cap_and_bias_gradients_by_differences():
    hidden, weight, targets = problem(9, 3, 7, torch.float64)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda h, w, b: linear_cross_entropy(h, w, targets, 4, bias=b, softcap=2.0)[0],
        (hidden, weight, bias),
    )


def test_only_the_bias_may_learn():
    hidden, weight, targets = problem()
    bias = torch.zeros(50, requires_grad=True)
    loss, _ = linear_cross_entropy(hidden.detach(), weight.detach(), targets, 10, bias=bias)
    loss.backward()
    probabilities = (hidden @ weight.T).softmax(-1)[targets >= 0]
    expected = probabilities.sum(0) - F.one_hot(targets[targets >= 0], 50).sum(0)
    torch.testing.assert_close(bias.grad, expected, atol=1e-5, rtol=1e-5)


def test_the_cap_works_in_fp32_under_bf16():
    """Logits near the cap differ by less than bf16 can tell apart there."""
    hidden = torch.eye(2, dtype=torch.bfloat16)
    weight = torch.tensor([[60.0, 0.0], [61.0, 0.0]])
    logits = head_logits(hidden, weight, softcap=30.0)
    assert logits.dtype == torch.float32
    expected = 30 * torch.tanh(torch.tensor([60.0, 61.0]).bfloat16().float() / 30)
    torch.testing.assert_close(logits[0], expected)
    assert logits[0, 1] > logits[0, 0]


@pytest.mark.parametrize("frozen", ["hidden", "weight", "both"])
def test_only_the_gradients_asked_for(frozen):
    hidden, weight, targets = problem()
    hidden.requires_grad_(frozen == "weight")
    weight.requires_grad_(frozen == "hidden")
    loss, _ = linear_cross_entropy(hidden, weight, targets, 10)
    assert loss.requires_grad == (frozen != "both")
    if frozen != "both":
        loss.backward()
    assert (hidden.grad is None) == (frozen != "weight")
    assert (weight.grad is None) == (frozen != "hidden")


@pytest.mark.parametrize("dtype,tolerance", [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_low_precision_stays_close(dtype, tolerance):
    hidden, weight, targets = problem(200, 32, 300)
    with torch.no_grad():
        weight *= 0.1
    exact = plain(hidden, weight, targets)
    low = hidden.detach().to(dtype).requires_grad_()
    loss, _ = linear_cross_entropy(low, weight, targets, 64)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=tolerance, atol=0)
    a = torch.autograd.grad(loss, (low, weight))
    b = torch.autograd.grad(exact, (hidden, weight))
    for x, y in zip(a, b, strict=True):
        assert ((x.float() - y).norm() / y.norm()).item() < 2 * tolerance
    assert a[1].dtype == torch.float32  # the master weight's gradient


def test_all_ignored_is_zero_not_nan():
    hidden, weight, targets = problem()
    loss, count = linear_cross_entropy(hidden, weight, torch.full_like(targets, -100), 10)
    loss.backward()
    assert loss.item() == 0 and count.item() == 0
    assert weight.grad.abs().max() == 0


def test_reference_is_the_formula():
    """Facts H1-H4, V28b, V51, FM3."""
    logits = torch.randn(2, 3, 50257)
    targets = torch.tensor([[3626, 6100, 345], [1107, 588, 11311]])
    probabilities = logits.softmax(-1).gather(-1, targets[..., None])
    by_steps = -probabilities.log().mean()  # softmax, pick, log, mean, negate
    mine = cross_entropy_reference(logits, targets)
    torch.testing.assert_close(mine, by_steps, rtol=1e-6, atol=0)
    torchs = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    torch.testing.assert_close(mine, torchs, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        cross_entropy_reference(logits + 123.0, targets), mine, rtol=1e-4, atol=0
    )
    equal = cross_entropy_reference(torch.full((4, 50257), 7.0), torch.arange(4))
    assert (
        equal.item() == pytest.approx(math.log(50257), rel=1e-6) == pytest.approx(10.8249, abs=5e-5)
    )
    assert equal.exp().item() == pytest.approx(50257, rel=1e-4)
    huge = torch.tensor([[1e4, -1e4, 0.0]])
    assert cross_entropy_reference(huge, torch.tensor([1])).item() == pytest.approx(2e4)
    eye = torch.eye(3)
    chunked, _ = linear_cross_entropy(huge, eye, torch.tensor([1]), 1)
    assert chunked.item() == pytest.approx(2e4)


def test_model_returns_loss_with_targets():
    """Fact G4, and the chunked loss is the same number."""
    model = build_model(ModelConfig(vocab_size=30, width=16, layers=1, heads=2), seed=1)
    ids, targets = torch.randint(0, 30, (2, 9)), torch.randint(0, 30, (2, 9))
    targets[0, 3] = -100
    assert model(ids).shape == (2, 9, 30)
    logits, loss = model(ids, targets)
    total, count = model.loss(ids, targets, chunk_tokens=4)
    assert logits.shape == (2, 9, 30) and count.item() == 17
    torch.testing.assert_close(total / count, loss, rtol=1e-6, atol=0)


def test_model_caps_logits_in_both_forms_of_the_loss():
    config = ModelConfig(
        vocab_size=30, width=16, layers=1, heads=2, logit_softcap=0.5, head_bias=True
    )
    model = build_model(config, seed=1)
    with torch.no_grad():
        model.head_bias.normal_()
        model.tokens.weight.normal_()
    ids, targets = torch.randint(0, 30, (2, 9)), torch.randint(0, 30, (2, 9))
    logits, loss = model(ids, targets)
    assert logits.abs().max() <= 0.5 and logits.std() > 0.2
    total, count = model.loss(ids, targets, chunk_tokens=4)
    torch.testing.assert_close(total / count, loss, rtol=1e-6, atol=0)


def test_router_losses_are_in_the_training_loss_only():
    experts = {"count": 4, "chosen": 1, "balance_loss": 0.5}
    model = build_model(ModelConfig(vocab_size=30, width=16, layers=2, heads=2, experts=experts))
    ids = torch.randint(0, 30, (2, 9))
    targets = ids.clone()
    targets[0, :4] = -100
    with_balance, count = model.train().loss(ids, targets)
    without, _ = model.eval().loss(ids, targets)
    added = ((with_balance - without) / count).item()
    assert count.item() == 14 and 0.49 < added < 2.0  # 0.5 where balanced, 2 at the worst
    with_balance.backward()
    assert model.blocks[0].feedforward.router.weight.grad.abs().max() > 0
