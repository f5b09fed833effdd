"""The CPU's attention in slices: it equals the written-out form, compiled too, and what it keeps
and touches is bounded."""

from __future__ import annotations

import importlib

import pytest
import torch
from attention_cases import OPTIONS, SHAPES, drawn, heads, segments_of
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.model import attention_reference, causal_mask, document_mask
from langwright.model.sliced_attention import sliced_attention

module = importlib.import_module("langwright.model.sliced_attention")


@settings(max_examples=80, deadline=None)
@given(SHAPES, st.booleans(), OPTIONS)
def test_sliced_attention_equals_reference_with_gradients(shape, documents, options):
    """The CPU kernel in float64, where its rounding cannot hide a mistake."""
    batch, (h_q, h_k), t, h, g = shape
    options = drawn(options, batch, h_q, t, t, torch.float64)
    inputs = [
        heads(batch, n, t, width, torch.float64).requires_grad_()
        for n, width in ((h_q, h), (h_k, h), (h_k, g or h))
    ]
    learned = inputs + [
        options[name].requires_grad_() for name in ("bias", "sinks") if options[name] is not None
    ]
    mask = document_mask(segments_of(batch, t)) if documents else None
    if mask is not None and options["window"]:
        mask = mask & causal_mask(t, t, window=options["window"])
    grad = torch.randn(batch, h_q, t, g or h, dtype=torch.float64)
    results = []
    for form in (sliced_attention, attention_reference):
        y = form(*inputs, mask, **options)
        results.append([y, *torch.autograd.grad(y, learned, grad)])
    for mine, reference in zip(*results, strict=True):
        torch.testing.assert_close(mine, reference, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("kept", [False, True])
def test_sliced_attention_in_many_slices(monkeypatch, window, kept):
    """Slices of one row and three queries cover everything once, also where their weights are kept
    for the backward pass."""
    monkeypatch.setattr(module, "SLICE_BYTES", 1)
    monkeypatch.setattr(module, "QUERIES", 3)
    q, k, v = (heads(3, n, 10, 4, torch.float64).requires_grad_() for n in (4, 2, 2))
    sinks = torch.randn(4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(1, 4, 10, 10, dtype=torch.float64, requires_grad=True)
    inputs = (q, k, v, bias) if kept else (q, k, v, bias, sinks)
    for mask in (None, document_mask(segments_of(3, 10)), causal_mask(10, 10)[None, None]):
        if mask is not None and window:
            mask = mask & causal_mask(10, 10, window=window)
        options = {"bias": bias, "window": window}
        if not kept:
            options |= {"sinks": sinks, "softcap": 1.0}
        mine = sliced_attention(q, k, v, mask, **options)
        reference = attention_reference(q, k, v, mask, **options)
        torch.testing.assert_close(mine, reference, atol=1e-12, rtol=1e-9)
        grads = [torch.autograd.grad(y.sin().sum(), inputs) for y in (mine, reference)]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_a_window_touches_only_the_keys_in_sight():
    """512 tokens with a window of 16: under a third of the products of the whole triangle."""
    q = torch.empty(1, 2, 512, 8)
    counts = {}
    for window in (None, 16):
        options = module.Options(None, None, None, 1.0, None, window)
        counts[window] = sum(
            (a.stop - a.start) * (b.stop - b.start) * (c.stop - c.start)
            for a, b, c in module._slices(q, 512, options)
        )
    assert counts[16] == 128 * 128 + 3 * 128 * (128 + 15)
    assert counts[None] == 128 * (128 + 256 + 384 + 512)


@settings(max_examples=200, deadline=None)
@given(
    st.tuples(st.integers(0, 40), st.integers(1, 12), st.integers(1, 600)),
    st.sampled_from([0, 77]),
    st.sampled_from([None, 1, 30, 1000]),
)
def test_slices_fit_the_cache_and_are_even(shape, earlier, window):
    """Together they hold every pair that is seen, none twice; each but a single row is bounded."""
    batch, heads, t = shape
    q, s = torch.empty(batch, heads, t, 4), t + earlier
    seen = torch.zeros(batch, t, s, dtype=torch.int32)
    rows_of = {}
    for place in module._slices(q, s, module.Options(None, None, None, 1.0, None, window)):
        rows, queries, keys = (part.stop - part.start for part in place)
        assert rows == 1 or 4 * heads * rows * queries * keys <= module.SLICE_BYTES
        seen[place.rows, place.queries, place.keys] += 1
        rows_of.setdefault(place.queries.start, []).append(rows)
    assert seen.max() <= 1 if seen.numel() else not rows_of
    assert (seen[:, causal_mask(t, s, window=window)] == 1).all()
    for (
        rows
    ) in rows_of.values():  # the fewest slices that fit, and the last no more than the others
        assert sum(rows) == batch and len(set(rows[:-1])) <= 1 and rows[-1] <= rows[0]


@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_sliced_attention_is_a_whole_operator(extra, keep):
    """Fake shapes, autograd registration and aliasing as torch.compile needs them."""
    q, k, v = (heads(2, n, 20, 4).requires_grad_() for n in (4, 2, 2))
    sinks, bias = torch.randn(4, requires_grad=True), torch.randn(1, 4, 20, 20, requires_grad=True)
    options = (bias, sinks, 0.5, 2.0, 5) if extra else (None, None, 0.5, None, None)
    if extra and keep:
        options = (bias, None, 0.5, None, 5)
    operator = torch.ops.langwright.sliced_attention.default
    kinds = ["test_schema", "test_autograd_registration", "test_faketensor"]
    torch.library.opcheck(operator, (q, k, v, None, *options, keep), test_utils=kinds)
    inputs = [x.detach() if torch.is_tensor(x) else x for x in (q, k, v, None, *options)]
    out, kept = operator(*inputs, keep)
    bias, sinks, *numbers = inputs[4:]
    backward = torch.ops.langwright.sliced_attention_backward.default
    arguments = (out, q.detach(), k.detach(), v.detach(), None, bias, sinks, kept, *numbers, extra)
    torch.library.opcheck(backward, arguments, test_utils=["test_schema", "test_faketensor"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("window", [None, 50])
def test_sliced_attention_reads_no_unfilled_memory(dtype, window):
    """Memory that nothing has been written to yet may hold anything; here torch fills it."""
    inputs = [heads(3, n, 300, 32, dtype).requires_grad_() for n in (4, 2, 2)]
    results = []
    for filled in (False, True):
        torch.use_deterministic_algorithms(filled)
        try:
            y = sliced_attention(*inputs, window=window)
            results.append([y, *torch.autograd.grad(y.sum(), inputs)])
        finally:
            torch.use_deterministic_algorithms(False)
    for plain, filled in zip(*results, strict=True):
        assert torch.equal(plain, filled)


@pytest.mark.parametrize(
    ("t", "kept"), [(20, 2 * 4 * 20 * 20), (200, 2 * 4 * (128 * 128 + 72 * 200)), (300, 0)]
)
def test_sliced_attention_compiled_equals_itself(t, kept):
    """Traced for the compiler, where scale and layout are its business: rows whose weights are
    kept, in two slices too, and rows too long for that."""
    saved = []
    inputs = [heads(2, n, t, 32).requires_grad_() for n in (4, 2, 2)]
    traced = torch.compile(sliced_attention, backend="aot_eager", dynamic=False, fullgraph=True)
    results = []
    for form in (sliced_attention, traced):
        with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
            y = form(*inputs)
        assert [x.numel() for x in saved if x.dim() == 1] == [kept]
        saved.clear()
        results.append([y, *torch.autograd.grad(y.sin().sum(), inputs)])
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, atol=2e-6, rtol=1e-5)
