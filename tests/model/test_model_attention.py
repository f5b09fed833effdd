"""Attention: every kernel equals the written-out form, under every option, gradients too."""

from __future__ import annotations

import math

import pytest
import torch
from attention_cases import OPTIONS, SHAPES, drawn, heads, segments_of
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.model import (
    ModelConfig,
    attend,
    attention_kernel,
    attention_reference,
    causal_mask,
    document_mask,
)
from langwright.model.attention_kernels import choose_kernel, flex, sdpa, summed
from langwright.model.masks import block_mask


def one_by_one(q, k, v, *, bias, scale, softcap, sinks, window):
    """Causal attention query by query, key by key, as one would explain it."""
    batch, h_q, t, h = q.shape
    s, groups = k.shape[2], h_q // k.shape[1]
    y = torch.zeros(batch, h_q, t, v.shape[-1], dtype=q.dtype)
    for b in range(batch):
        for head in range(h_q):
            for i in range(t):
                scores = {}
                for j in range(s):
                    distance = (s - t + i) - j
                    if distance < 0 or (window is not None and distance >= window):
                        continue
                    score = float(q[b, head, i] @ k[b, head // groups, j])
                    score *= scale or 1 / math.sqrt(h)
                    if softcap:
                        score = softcap * math.tanh(score / softcap)
                    if bias is not None:
                        score += float(bias[b % bias.shape[0], head, i, j])
                    scores[j] = math.exp(score)
                total = sum(scores.values())
                if sinks is not None:
                    total += math.exp(float(sinks[head]))
                for j, score in scores.items():
                    y[b, head, i] += score / total * v[b, head // groups, j]
    return y


@settings(max_examples=25, deadline=None)
@given(OPTIONS, st.sampled_from([(1, 1), (4, 2)]), st.sampled_from([0, 3]))
def test_the_reference_is_the_definition(options, h_qk, earlier):
    h_q, h_k = h_qk
    t, s = 5, 5 + earlier
    q, k, v = (heads(2, n, c, 4, torch.float64) for n, c in ((h_q, t), (h_k, s), (h_k, s)))
    options = drawn(options, 2, h_q, t, s, torch.float64)
    options["window"] = options["window"] and min(options["window"], 3)
    torch.testing.assert_close(
        attention_reference(q, k, v, None, **options),
        one_by_one(q, k, v, **options),
        atol=1e-12,
        rtol=1e-10,
    )


def test_sinks_and_caps_equal_transformers():
    """gpt-oss's sinks and Gemma 2's cap, as transformers writes them out."""
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as gemma
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward as gpt_oss

    q, k, v = (3 * heads(2, n, 9, 4) for n in (4, 2, 2))
    allowed = causal_mask(9, 9)
    mask = torch.zeros(1, 1, 9, 9).masked_fill(~allowed, float("-inf"))
    module = torch.nn.Module()
    module.num_key_value_groups, module.training, module.sinks = 2, False, torch.randn(4)
    expected, _ = gpt_oss(module, q, k, v, mask, scaling=0.4)
    found = attend(q, k, v, None, scale=0.4, sinks=module.sinks)
    torch.testing.assert_close(found.transpose(1, 2), expected, atol=5e-6, rtol=1e-5)
    expected, _ = gemma(module, q, k, v, mask, scaling=0.4, softcap=2.0)
    found = attend(q, k, v, None, scale=0.4, softcap=2.0)
    torch.testing.assert_close(found.transpose(1, 2), expected, atol=5e-6, rtol=1e-5)


@settings(max_examples=150, deadline=None)
@given(SHAPES, st.booleans(), st.sampled_from([0, 5]), OPTIONS)
def test_every_kernel_equals_the_reference(shape, documents, earlier, options):
    batch, (h_q, h_k), t, h, g = shape
    s = t + (0 if documents else earlier)
    q = heads(batch, h_q, t, h)
    k, v = heads(batch, h_k, s, h), heads(batch, h_k, s, g or h)
    options = drawn(options, batch, h_q, t, s)
    mask = document_mask(segments_of(batch, t)) if documents else None
    if mask is not None and options["window"]:
        mask = mask & causal_mask(t, t, window=options["window"])
    expected = attention_reference(q, k, v, mask, **options)
    torch.testing.assert_close(attend(q, k, v, mask, **options), expected, atol=5e-6, rtol=1e-4)
    if options["softcap"] is None:
        del options["softcap"]
        torch.testing.assert_close(
            sdpa(q, k, v, mask, 0.0, **options), expected, atol=5e-6, rtol=1e-4
        )


@pytest.mark.parametrize("segmented", [False, True])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("options", [{}, {"softcap": 1.5}, {"sinks": True, "scale": 0.4}])
@pytest.mark.filterwarnings("ignore:.*flex_attention")
def test_flex_attention_equals_reference(segmented, window, options):
    """The form for CUDA, run uncompiled here: its mask, cap, scale and sinks."""
    q, k, v = (heads(2, n, 150, 16) for n in (4, 2, 2))
    segments = segments_of(2, 150) if segmented else None
    options = {"scale": None, "softcap": None, "sinks": None, **options}
    if options["sinks"]:
        options["sinks"] = torch.randn(4)
    blocks = block_mask(150, 150, window, segments, torch.device("cpu"))
    mask = causal_mask(150, 150, window=window)[None, None]
    if segments is not None:
        mask = mask & document_mask(segments)
    expected = attention_reference(q, k, v, mask, **options)
    with torch.no_grad():
        torch.testing.assert_close(flex(q, k, v, blocks, **options), expected, atol=5e-6, rtol=1e-4)
        chosen = attend(q, k, v, None, blocks=blocks, **options)
    torch.testing.assert_close(chosen, expected, atol=5e-6, rtol=1e-4)
    written = attention_reference(q, k, v, None, blocks=blocks, **options)
    torch.testing.assert_close(written, expected, atol=0, rtol=0)


def test_bf16_attention_is_as_exact_as_torchs():
    q, k, v = (heads(4, n, 200, 32) for n in (4, 4, 4))
    exact = attention_reference(q, k, v, None)

    def error(y):
        return ((y.float() - exact).norm() / exact.norm()).item()

    low = [x.bfloat16() for x in (q, k, v)]
    fused = torch.nn.functional.scaled_dot_product_attention(*low, is_causal=True)
    assert error(attend(*low, None)) < 2 * error(fused) < 0.02


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("h_kv", [1, 2, 6])
def test_one_query_as_sums_equals_reference(h_kv, scale):
    q, k, v = heads(3, 6, 1, 16), heads(3, h_kv, 20, 16), heads(3, h_kv, 20, 8)
    mask = torch.arange(20) <= torch.tensor([0, 7, 19])[:, None]  # (B, S)
    expected = attention_reference(q, k, v, mask[:, None, None], scale=scale)
    found = summed(q, k, v, mask[:, None, None], scale)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_padding_sees_something():
    segments = torch.tensor([[0, 0, -1, -1]])
    mask = document_mask(segments)
    assert mask.any(dim=-1).all()
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_window_counts_the_token_itself():
    assert causal_mask(4, 4, window=2).int().tolist() == [
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 1, 1, 0],
        [0, 0, 1, 1],
    ]
    assert causal_mask(1, 4, window=2).int().tolist() == [[0, 0, 1, 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("softcap", [None, 50.0])
def test_attention_dropout_keeps_the_mean(dtype, softcap):
    """Survivors are scaled by 1/(1-p): the mean over many draws is the undropped output."""
    q, k = heads(1, 2, 32, 8, dtype), heads(1, 2, 32, 8, dtype)
    v = torch.ones(1, 2, 32, 8, dtype=dtype)
    drawn = torch.stack(
        [attend(q, k, v, None, dropout=0.5, softcap=softcap).float() for _ in range(300)]
    )
    assert not torch.allclose(drawn[0], drawn[1])
    torch.testing.assert_close(drawn.mean(), torch.tensor(1.0), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    "device,dtype,queries,options,name",
    [
        ("cpu", "float32", 512, {}, "sdpa"),
        ("cpu", "bfloat16", 512, {}, "sliced"),
        ("cpu", "bfloat16", 1, {}, "sdpa"),
        ("cpu", "bfloat16", 512, {"dropout": True}, "sdpa"),
        ("cpu", "float32", 512, {"softcap": True}, "sliced"),
        ("cpu", "float32", 1, {"softcap": True}, "written out"),
        ("cpu", "float32", 512, {"softcap": True, "dropout": True}, "written out"),
        ("cpu", "float32", 512, {"sinks": True, "window": True}, "sdpa"),
        ("cuda", "bfloat16", 512, {}, "sdpa"),
        ("cuda", "bfloat16", 512, {"window": True}, "flex"),
        ("cuda", "bfloat16", 512, {"softcap": True}, "flex"),
        ("cuda", "bfloat16", 512, {"sinks": True}, "flex"),
        ("cuda", "bfloat16", 512, {"documents": True}, "flex"),
        ("cuda", "bfloat16", 512, {"documents": True, "dropout": True}, "sdpa"),
        ("cuda", "bfloat16", 100, {"documents": True}, "sdpa"),
        ("cpu", "float32", 512, {"documents": True}, "sdpa"),
        ("cuda", "bfloat16", 512, {"later": True}, "flex"),
        ("cuda", "bfloat16", 512, {"later": True, "dropout": True}, "sdpa"),
        ("cuda", "bfloat16", 100, {"later": True}, "sdpa"),
        ("cpu", "float32", 512, {"later": True}, "sdpa"),
        ("cuda", "bfloat16", 512, {"softcap": True, "blocks": False}, "written out"),
        ("cuda", "bfloat16", 512, {"softcap": True, "dropout": True}, "written out"),
        ("cuda", "bfloat16", 64, {"window": True}, "sdpa"),
        ("cuda", "float64", 512, {"window": True}, "sdpa"),
        ("mps", "float32", 512, {"softcap": True}, "written out"),
    ],
)
def test_the_choice_of_kernel(device, dtype, queries, options, name):
    found, reason = choose_kernel(device, getattr(torch, dtype), queries, **options)
    assert found == name and reason


def test_sums_have_neither_cap_nor_sinks(monkeypatch):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    found = [
        choose_kernel("cpu", torch.float32, queries, softcap=softcap, sinks=sinks)[0]
        for queries, softcap, sinks in (
            (1, False, False),
            (2, False, False),
            (1, True, False),
            (1, False, True),
        )
    ]
    assert found == ["summed", "sdpa", "written out", "sdpa"]


def test_the_choice_is_told():
    config = ModelConfig(vocab_size=10, context_length=512, width=64, heads=4)
    assert attention_kernel(config, "cpu")[0] == "sdpa"
    assert attention_kernel(config, "cpu", torch.bfloat16)[0] == "sliced"
    mixed = config.replace(window=64, reach=("local", "global"))
    name, reason = attention_kernel(mixed, "cuda", training=True)
    assert name == (
        "sdpa in global layers, flex in local layers; flex where rows hold several documents"
    )
    assert "local layers: " in reason and "global layers: " in reason
    assert attention_kernel(mixed, "cuda")[0] == "sdpa"  # a text read into a cache
    assert attention_kernel(config, "cpu", training=True)[0] == "sdpa"
    name, reason = attention_kernel(config, "cuda", training=True)
    assert name == "sdpa; flex where rows hold several documents"
    assert reason.startswith("torch's fused kernel; several documents: ")
    assert attention_kernel(config.replace(window=64), "cuda", training=True)[0] == "flex"
    wide = attention_kernel(config.replace(window=512), "cuda", training=True)
    assert wide == (name, reason)  # a window that holds the whole row is none
    for few in ({}, {"dropout_attention": 0.1}, {"heads": 8}, {"position": "alibi"}):
        queries = None if few else 60
        changed = config.replace(**{"window": 64, **few})
        assert attention_kernel(changed, "cuda", queries=queries, training=True)[0] == "sdpa"
    capped = config.replace(attention_softcap=30.0, dropout_attention=0.1)
    assert attention_kernel(capped, "cpu")[0] == "sliced"
    assert attention_kernel(capped, "cpu", training=True)[0] == "written out"


def test_lengths_left_open_compile_whole() -> None:
    """The compiler stands symbols for lengths, and torch's kernel takes no symbol for a bool."""
    compiled = torch.compile(sdpa, fullgraph=True, backend="eager")
    for length in (5, 9):
        q, k, v = (torch.randn(2, 4, length, 8) for _ in range(3))
        for x in (q, k, v):
            torch._dynamo.mark_dynamic(x, 2)
        kept = {"dropout": 0.0, "bias": None, "scale": None, "sinks": None, "window": None}
        torch.testing.assert_close(compiled(q, k, v, None, **kept), sdpa(q, k, v, None, **kept))
