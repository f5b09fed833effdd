"""Cross entropy: the formula, torch's, and the chunked form agree."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from langwright.model import ModelConfig, build_model, cross_entropy_reference, linear_cross_entropy


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
