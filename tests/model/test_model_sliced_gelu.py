"""GELU in slices: torch's own values and gradients, whatever the size."""

import pytest
import torch
from torch.nn import functional as F

from langwright.model.feedforward import gelu_tanh
from langwright.model.sliced_gelu import SLICE_ELEMENTS, sliced_gelu, slicing_pays


@pytest.mark.parametrize("shape", [(3,), (2, SLICE_ELEMENTS), (5, 7, SLICE_ELEMENTS // 16 + 1)])
def test_equals_the_formula(shape):
    x = (4.0 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).requires_grad_()
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    wanted = F.gelu(x.double(), approximate="tanh")
    (slope,) = torch.autograd.grad(wanted, x, grad.double())
    found = sliced_gelu(x)
    torch.testing.assert_close(found, wanted.float(), atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(found, x, grad)[0], slope, atol=2e-5, rtol=1e-5)


def test_far_out_and_in_bf16():
    x = torch.tensor([-1e4, -100.0, -9.0, 0.0, 9.0, 100.0, 1e4], requires_grad=True)
    y = sliced_gelu(x)
    wanted = torch.tensor([0.0, 0.0, 0.0, 0.0, 9.0, 100.0, 1e4])
    torch.testing.assert_close(y.detach(), wanted, atol=1e-20, rtol=0)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope, torch.tensor([0, 0, 0, 0.5, 1, 1, 1.0]), atol=1e-6, rtol=0)
    values = torch.linspace(-6, 6, 4001).bfloat16().requires_grad_()
    own, theirs = sliced_gelu(values), F.gelu(values, approximate="tanh")
    torch.testing.assert_close(own, theirs, atol=1e-6, rtol=2**-8)  # the last bit of bf16
    slopes = [torch.autograd.grad(y.float().sum(), values)[0] for y in (own, theirs)]
    torch.testing.assert_close(*slopes, atol=2**-9, rtol=2**-7)


def test_where_it_is_used(monkeypatch):
    large = torch.zeros(SLICE_ELEMENTS + 1)
    assert slicing_pays(large) and not slicing_pays(large[1:]) and not slicing_pays(large.double())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not slicing_pays(large)
    monkeypatch.undo()
    x = torch.randn(2, SLICE_ELEMENTS).t().requires_grad_()  # not in one piece
    torch.testing.assert_close(gelu_tanh(x), F.gelu(x, approximate="tanh"), atol=2e-6, rtol=1e-5)
