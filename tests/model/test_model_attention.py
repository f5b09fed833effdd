"""Attention: every kernel equals the written-out form, and nothing looks ahead."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.model import attend, attention_reference, causal_mask, document_mask
from langwright.model.sliced_attention import sliced_attention

SHAPES = st.tuples(
    st.integers(1, 3),  # B
    st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]),  # H, K
    st.sampled_from([1, 2, 7, 64, 130, 260]),  # T
    st.sampled_from([2, 8, 16]),  # h
)


def heads(batch, heads, t, h, dtype=torch.float32):
    """(B, H, T, h) with the strides that the projections give."""
    return torch.randn(batch, t, heads, h, dtype=dtype).transpose(1, 2)


def segments_of(batch, t):
    """Random documents per row, the last tokens of the first row padding."""
    segments = torch.randint(0, 2, (batch, t)).cumsum(1)
    segments[0, t - t // 3 :] = -1
    return segments


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.booleans(), st.sampled_from([0, 5]))
def test_fused_attention_equals_reference(shape, documents, earlier):
    batch, (h_q, h_k), t, h = shape
    q = heads(batch, h_q, t, h)
    k, v = (heads(batch, h_k, t + (0 if documents else earlier), h) for _ in range(2))
    mask = document_mask(segments_of(batch, t)) if documents else None
    if mask is None and earlier:
        mask = causal_mask(t, t + earlier)[None, None]
    torch.testing.assert_close(
        attend(q, k, v, mask), attention_reference(q, k, v, mask), atol=2e-6, rtol=1e-5
    )


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.booleans())
def test_sliced_attention_equals_reference_with_gradients(shape, documents):
    """The CPU kernel in float64, where its rounding cannot hide a mistake."""
    batch, (h_q, h_k), t, h = shape
    inputs = [heads(batch, n, t, h, torch.float64).requires_grad_() for n in (h_q, h_k, h_k)]
    mask = document_mask(segments_of(batch, t)) if documents else None
    grad = torch.randn(batch, h_q, t, h, dtype=torch.float64)
    results = []
    for form in (sliced_attention, attention_reference):
        y = form(*inputs, mask)
        results.append([y, *torch.autograd.grad(y, inputs, grad)])
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-11, rtol=1e-9)


def test_sliced_attention_in_many_slices(monkeypatch):
    """Slices of one row and three queries cover everything once."""
    import importlib

    module = importlib.import_module("langwright.model.sliced_attention")
    monkeypatch.setattr(module, "SLICE_BYTES", 1)
    monkeypatch.setattr(module, "QUERIES", 3)
    q, k, v = (heads(3, n, 10, 4, torch.float64).requires_grad_() for n in (4, 2, 2))
    for mask in (None, document_mask(segments_of(3, 10)), causal_mask(10, 10)[None, None]):
        mine, reference = sliced_attention(q, k, v, mask), attention_reference(q, k, v, mask)
        torch.testing.assert_close(mine, reference, atol=1e-12, rtol=1e-9)
        grads = [torch.autograd.grad(y.sin().sum(), (q, k, v)) for y in (mine, reference)]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_sliced_attention_is_a_whole_operator():
    """Fake shapes, autograd registration and aliasing as torch.compile needs them."""
    q, k, v = (heads(2, n, 20, 4).requires_grad_() for n in (4, 2, 2))
    torch.library.opcheck(sliced_attention, (q, k, v, None))


def test_bf16_attention_is_as_exact_as_torchs():
    q, k, v = (heads(4, n, 200, 32) for n in (4, 4, 4))
    exact = attention_reference(q, k, v, None)

    def error(y):
        return ((y.float() - exact).norm() / exact.norm()).item()

    low = [x.bfloat16() for x in (q, k, v)]
    fused = torch.nn.functional.scaled_dot_product_attention(*low, is_causal=True)
    assert error(attend(*low, None)) < 2 * error(fused) < 0.02


def test_padding_sees_something():
    segments = torch.tensor([[0, 0, -1, -1]])
    mask = document_mask(segments)
    assert mask.any(dim=-1).all()
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_dropout_keeps_the_mean(dtype):
    """Survivors are scaled by 1/(1-p): the mean over many draws is the undropped output."""
    q, k = heads(1, 2, 32, 8, dtype), heads(1, 2, 32, 8, dtype)
    v = torch.ones(1, 2, 32, 8, dtype=dtype)
    drawn = torch.stack([attend(q, k, v, None, dropout=0.5).float() for _ in range(300)])
    assert not torch.allclose(drawn[0], drawn[1])
    torch.testing.assert_close(drawn.mean(), torch.tensor(1.0), atol=0.03, rtol=0)
