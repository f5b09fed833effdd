"""Quantised weights: the numbers they stand for, the kernels, the model, the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.formats import save_gguf
from langwright.generate import (
    Engine,
    EngineConfig,
    LanguageModel,
    SamplingParams,
    kernels,
    quantise,
)
from langwright.generate.kernels import Int4, Int8, Reference, TwoInt4, crossing, product
from langwright.generate.quality import compare_quality
from langwright.generate.quantise import Grouped, quantise_int4, quantise_int8
from langwright.generate.threads import Slowdown, calibrate_threads, candidates, choose
from langwright.generate.weights import (
    Choice,
    JoinedLinear,
    PackedLinear,
    pack_model,
    stored_blocks,
    with_weights,
)
from langwright.model import Transformer, build_model, model_config

FAMILIES = [
    "llama-2m",
    "gpt2-124m",
    "qwen3-2m",
    "olmo-2-1b",
    "pythia-70m",
    "langwright-fast-1m",
    "langwright-fastest-1m",
]


def matrix(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def tiny(preset: str = "llama-2m", **changes: object) -> Transformer:
    sizes = {"width": 64, "layers": 2, "heads": 4, "head_width": 16, "kv_heads": 2}
    sizes |= {"hidden_width": 96, "vocab_size": 96, "context_length": 128}
    if preset.startswith(("gpt2", "pythia")):
        sizes["kv_heads"] = 4
    return build_model(model_config({"preset": preset, **sizes, **changes}), seed=3).eval()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-5, 5), st.floats(1e-6, 100))
def test_int4_is_no_worse_than_rounding_over_the_range(seed, shift, size):
    x = matrix(8, 64, seed) * size + shift * size
    groups = x.unflatten(1, (-1, 32))
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale = (high - low) / 15
    plain = ((groups - low) / scale).round() * scale + low
    ours = quantise_int4(x).dense().unflatten(1, (-1, 32))
    error, plain_error = ((a - groups).square().sum(-1) for a in (ours, plain))
    assert (error <= plain_error * 1.001 + 1e-9 * size**2).all()


def test_int4_of_a_normal_matrix_has_the_error_that_four_bits_give():
    x = matrix(256, 512)
    error = (quantise_int4(x).dense() - x).square().mean()
    assert 0.004 < error < 0.0078  # plain rounding over the range gives 0.0083


def test_narrower_ranges_make_the_error_smaller(monkeypatch):
    """A far value is cut, and the others lie closer: for normal numbers by some percent."""
    x = matrix(64, 256)
    tried = (quantise_int4(x).dense() - x).square().mean().sqrt()
    monkeypatch.setattr(quantise, "SHRINKS", (1.0,))
    whole = (quantise_int4(x).dense() - x).square().mean().sqrt()
    assert 0.9 < tried / whole < 0.98


@pytest.mark.parametrize("value", [0.0, 3.25, -1e-8])
def test_constant_groups_are_exact(value):
    x = torch.full((2, 32), value)
    assert torch.equal(quantise_int4(x).dense(), x)
    assert torch.allclose(quantise_int8(x).dense(), x, rtol=1e-6)


def test_rows_of_zeros_stay_zeros():
    x = matrix(4, 64)
    x[1] = 0
    for found in (quantise_int8(x), quantise_int4(x)):
        assert torch.equal(found.dense()[1], x[1]) and found.dense().isfinite().all()
    assert (quantise_int8(x).codes[1] == 128).all()  # not what a machine makes of no number


def test_int8_errs_by_half_a_step_at_most():
    x = matrix(32, 96)
    error = (quantise_int8(x).dense() - x).abs()
    assert (error <= x.abs().amax(1, keepdim=True) / 254 * 1.0001).all()


def q8_0(rows: int, columns: int) -> Grouped:
    codes = torch.randint(0, 256, (rows, columns), generator=torch.Generator().manual_seed(1))
    scale = matrix(rows, columns // 32).abs()
    return Grouped(codes.to(torch.uint8), scale, torch.zeros_like(scale), 8)


@pytest.mark.parametrize("rows", [1, 3, 16, 33])
@pytest.mark.parametrize(
    ("weight", "kernel"),
    [
        (quantise_int4(matrix(48, 96)), Int4),
        (quantise_int8(matrix(48, 96)), Int8),
        (q8_0(48, 96), TwoInt4),
        (quantise_int4(matrix(50, 96)), Reference),  # rows that no kernel takes
    ],
)
def test_kernels_equal_the_numbers_written_out(weight, kernel, rows):
    chosen = product(weight)
    assert type(chosen) is kernel
    x = matrix(rows, 96, 5).to(torch.bfloat16)
    want = x.double() @ weight.dense().double().T
    # bf16 scales and results: 2^-8 each, over sums of 96 terms
    assert (chosen(x).double() - want).abs().max() < 0.012 * want.abs().max()


@pytest.mark.parametrize("columns", [33, 40])
def test_int8_of_odd_widths_is_written_out(columns):
    """PyTorch's 8-bit kernel reads past the end of such rows."""
    weight = quantise_int8(matrix(32, columns))
    assert isinstance(product(weight), Reference)
    x = torch.randn(3, columns).to(torch.bfloat16)
    expected = x.float() @ weight.dense().to(torch.bfloat16).float().T
    torch.testing.assert_close(product(weight)(x).float(), expected, rtol=1e-2, atol=0.02)


def test_groups_that_no_kernel_has_are_written_out():
    weight = quantise_int4(matrix(32, 64), group=16)
    assert isinstance(product(weight), Reference)
    x = torch.randn(3, 64).to(torch.bfloat16)
    expected = x.float() @ weight.dense().to(torch.bfloat16).float().T
    torch.testing.assert_close(product(weight)(x).float(), expected, rtol=1e-2, atol=0.02)


@pytest.mark.parametrize("rows", [1, 40])  # the packed kernel, and the wide one
def test_joined_matrices_give_what_each_gives(rows):
    parts = [
        (quantise_int4(matrix(48, 64, 1)), None),
        (quantise_int4(matrix(16, 64, 2)), torch.randn(16)),
        (quantise_int4(matrix(32, 64, 3)), torch.randn(32)),
    ]
    choice = Choice(wide=True, rows=8)
    x = torch.randn(rows, 1, 64).to(torch.bfloat16)
    found = JoinedLinear(parts, choice)(x)
    for y, (weight, bias) in zip(found, parts, strict=True):
        torch.testing.assert_close(y, PackedLinear(weight, bias, choice)(x), rtol=0, atol=1e-2)


def test_matrices_that_read_the_same_vector_are_joined():
    packed = pack_model(tiny(), "int4")
    block = packed.blocks[0]
    assert isinstance(block.attention.joined, JoinedLinear) and block.attention.q is None
    assert isinstance(block.feedforward.joined, JoinedLinear) and block.feedforward.up is None
    assert isinstance(block.feedforward.down, PackedLinear)


def eight_bits(weight: torch.Tensor) -> Grouped:
    """As a file has them: a scale for 32 columns."""
    groups = weight.detach().unflatten(1, (-1, 32))
    scale = groups.abs().amax(-1) / 127
    codes = ((groups / scale[..., None]).round() + 128).to(torch.uint8).flatten(1)
    return Grouped(codes, scale, torch.zeros_like(scale), 8)


def test_matrices_of_two_kinds_stay_apart():
    """A file may hold the queries in 8 bits and the rest in 4."""
    model, name = tiny(), "blocks.0.attention.q.weight"
    weight = model.get_parameter(name).detach()
    packed = pack_model(model, "int4", Choice(wide=False), {name: eight_bits(weight)})
    first, second = (block.attention for block in packed.blocks)
    assert first.joined is None and second.joined is not None
    x = matrix(3, 64)
    torch.testing.assert_close(first.q(x), x @ weight.T, rtol=0.02, atol=0.01)


@pytest.mark.parametrize("tied", [False, True])
def test_a_stored_head_is_used(tied):
    model = tiny(tied=tied)
    name = "tokens.weight" if tied else "head.weight"
    stored = {name: eight_bits(model.head_weight)}
    hidden = matrix(4, 64)[None]
    with torch.no_grad():
        whole = model.logits(hidden)
        found = pack_model(model, "int4", Choice(wide=False), stored).logits(hidden)
        fewer = pack_model(model, "int4", Choice(wide=False)).logits(hidden)
    assert 4 * (found - whole).abs().mean() < (fewer - whole).abs().mean()


def test_few_rows_and_many_rows_use_the_same_numbers():
    weight = quantise_int4(matrix(64, 64))
    linear = PackedLinear(weight, torch.ones(64), Choice(wide=True, rows=4))
    x = matrix(5, 64, 2).to(torch.bfloat16)
    many, few = linear(x), linear(x[:4])
    assert (many[:4] - few).abs().max() < 0.02 * many.abs().max()
    always = PackedLinear(weight, torch.ones(64), Choice(wide=False))
    assert always.wide is None
    assert torch.equal(always(x)[:4], few)  # one kernel: a row does not depend on the others


@pytest.mark.parametrize("preset", FAMILIES)
@pytest.mark.parametrize("to", ["int4", "int8"])
def test_packed_model_equals_its_own_weights_written_out(preset, to):
    model = tiny(preset)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    packed = pack_model(model, to, Choice(wide=False))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    ids = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expanded = pack_model(model, to, Choice(wide=True, rows=0))  # always the bf16 copies
        one, two = (m(ids).log_softmax(-1) for m in (packed, expanded))
        full = model(ids).log_softmax(-1)
    assert (one - two).abs().max() < 0.08
    kl = (full.exp() * (full - one)).sum(-1).mean()
    assert 0 < kl < (0.02 if to == "int4" else 0.002)


@pytest.mark.parametrize("offset", [False, True])
def test_what_must_not_be_rounded_stays_exact(offset):
    """Routers, as a rounding changes who is chosen; sinks; norms whose weights stand for 1 + w."""
    experts = {"count": 4, "chosen": 2, "hidden_width": 32}
    model = tiny(experts=experts, attention_sinks=True, norm_offset=offset)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1e-3 * torch.randn(parameter.shape, generator=generator))
    packed = pack_model(model, "int8", Choice(wide=False))
    exact = ["blocks.1.feedforward.router.weight", "blocks.1.attention.sinks"]
    norms = ["blocks.1.attention_norm.weight", "norm.weight"]
    for name in (*exact, *(norms if offset else ())):
        assert torch.equal(packed.get_parameter(name), model.get_parameter(name))
    for name in ("tokens.weight", *(() if offset else norms)):
        assert packed.get_parameter(name).dtype == torch.bfloat16


def test_the_head_has_its_bias_and_its_soft_cap():
    model = tiny(tied=False, head_bias=True, logit_softcap=0.5)
    with torch.no_grad():
        model.head_bias.copy_(torch.linspace(-1, 1, 96))
        hidden = matrix(6, 64)[None]
        found = pack_model(model, "int8", Choice(wide=False)).logits(hidden)
        torch.testing.assert_close(found, model.logits(hidden), rtol=0, atol=0.01)
    assert found.abs().max() <= 0.5


def test_what_one_step_reads():
    """All that is kept but the table of tokens, of which a step reads one row; its product with
    the head reads the packed form, though they are one matrix."""
    packed = pack_model(tiny(tied=True), "int4", Choice(wide=False))
    kept = [*packed.parameters(), *packed.buffers()]
    assert packed.read_bytes == sum(x.nbytes for x in kept) - packed.tokens.weight.nbytes


@pytest.mark.parametrize("deterministic", [False, True])
def test_one_kernel_where_rows_must_not_matter(deterministic):
    lm = LanguageModel(tiny(), None)
    config = EngineConfig(weights="int4", deterministic=deterministic, cache_bytes=1 << 22)
    linears = [m for m in Engine(lm, config).model.modules() if isinstance(m, PackedLinear)]
    assert linears and all((one.wide is None) == deterministic for one in linears)


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
def test_gguf_blocks_are_taken_as_they_are(tmp_path: Path, kind: str):
    from langwright.formats import load_model

    path = tmp_path / "m.gguf"
    save_gguf(LanguageModel(tiny(), None), path, kind)
    model = load_model(path)
    found = stored_blocks(path, model)
    names = {name for name, value in model.named_parameters() if value.dim() == 2}
    assert set(found) <= names and "blocks.1.attention.q.weight" in found
    for name, weight in found.items():
        assert torch.equal(weight.dense(), model.get_parameter(name))


def test_the_engine_generates_with_every_kind_of_weights():
    lm = LanguageModel(tiny(), None)
    params = SamplingParams(max_tokens=5, temperature=0.0)
    for weights in ("auto", "fp32", "bf16", "int8", "int4"):
        engine = Engine(lm, EngineConfig(max_running=2, weights=weights, cache_bytes=1 << 22))
        out = engine.generate([[1, 2, 3], [4, 5]], params)
        assert [len(one.answers[0].ids) for one in out] == [5, 5]
    assert lm.model.compute_dtype == torch.float32
    halved = with_weights(lm, "bf16").model
    assert halved.compute_dtype == torch.bfloat16 == halved.tokens.weight.dtype


def test_report_of_a_model_with_itself_and_with_int4():
    model = tiny()
    ids = torch.randint(0, 96, (300,), generator=torch.Generator().manual_seed(0)).tolist()
    same = compare_quality(model, model, ids, window=100)
    assert same.tokens == 297 and same.kl == 0 and same.same_first == 1
    assert same.perplexity == same.perplexity_quantised
    report = compare_quality(model, pack_model(model, "int4", Choice(wide=False)), ids)
    assert report.kl > 0 and report.weight_bytes > 3 * report.weight_bytes_quantised
    with torch.no_grad():
        row = torch.tensor([ids[:100]])
        logits = model(row[:, :-1])[0]
        loss = torch.nn.functional.cross_entropy(logits, row[0, 1:])
    alone = compare_quality(model, model, ids[:100])
    assert alone.perplexity == pytest.approx(float(loss.exp()), rel=1e-5)
    with pytest.raises(UserError, match="too little text"):
        compare_quality(model, model, [1])


def test_threads_are_chosen_by_the_median_and_fewer_win_ties():
    assert choose({1: [1.0, 1.0, 9.0], 2: [0.99, 0.99, 0.99]}) == 1
    assert choose({1: [1.0, 1.0, 1.0], 2: [0.6, 5.0, 0.6]}) == 2
    assert candidates(1) == [1] and candidates(6) == [1, 2, 4, 6]
    before = torch.get_num_threads()
    try:
        done = calibrate_threads(lambda: torch.ones(4).sum(), rounds=1)
        assert done.threads == torch.get_num_threads()
        torch.set_num_threads(before)
        with pytest.raises(ZeroDivisionError):
            calibrate_threads(lambda: 1 / 0)
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


def test_slowdown_is_noticed_at_twice_the_first_time():
    watch = Slowdown(10)
    assert not any(watch.add(1.0) for _ in range(30))
    assert not any(watch.add(1.9) for _ in range(10))
    assert any(watch.add(2.5) for _ in range(10))


@pytest.mark.parametrize(
    ("packed", "most"),
    [((1, 1, 1, 3), 8), ((3,), 1), ((1, 1, 1, 1, 1, 1), 64)],  # seconds with 2, 4, 8 ... rows
)
def test_crossing_is_the_last_number_with_which_few_bits_win(monkeypatch, packed, most):
    times = iter([seconds for one in packed for seconds in (one, 2)])  # bf16 takes two
    monkeypatch.setattr(kernels, "_seconds", lambda work: next(times))
    assert crossing.__wrapped__(64, 64) == most


def test_crossing_is_one_of_the_numbers_tried():
    assert crossing(64, 64) in (1, 2, 4, 8, 16, 32, 64)
