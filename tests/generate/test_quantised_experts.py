"""Quantised experts: the numbers they stand for, written out; the report counts them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from langwright.formats import load_model, save_gguf
from langwright.generate import Engine, EngineConfig, LanguageModel, SamplingParams
from langwright.generate.expert_weights import PackedExpertFeedForward, PackedExperts
from langwright.generate.quality import compare_quality, read_bytes
from langwright.generate.quantise import quantise
from langwright.generate.weights import Choice, pack_model, stored_blocks
from langwright.model import ExpertFeedForward, Transformer, build_model, model_config

PACKED = Choice(wide=False)
IDS = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(0))


def tiny(preset: str = "qwen3-30b-a3b", hidden: int = 32) -> Transformer:
    values = model_config({"preset": preset}).model_dump()
    values |= {"width": 64, "layers": 2, "heads": 4, "head_width": 16, "kv_heads": 2}
    values |= {"hidden_width": 96, "vocab_size": 96, "context_length": 128, "window": None}
    values |= {"expert_layers": None, "latent": None, "reach": None}
    values["rotary_scaling"] = None
    if preset == "deepseek-v3":
        values |= {"kv_heads": None, "expert_layers": (False, True)}
    values["experts"] |= {"count": 4, "chosen": 2, "hidden_width": hidden, "groups": 1}
    values["experts"] |= {"groups_chosen": 1}
    if values["experts"]["shared_width"]:
        values["experts"]["shared_width"] = 32
    return build_model(type(model_config({"preset": preset})).parse(values), seed=3).eval()


@pytest.mark.parametrize("to", ["int4", "int8"])
@pytest.mark.parametrize("counts", [[3, 0, 1, 5], [0, 0, 9, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
def test_each_expert_multiplies_its_own_rows(to: str, counts: list[int]) -> None:
    weight = torch.randn(4, 48, 64, generator=torch.Generator().manual_seed(1))
    packed = PackedExperts([quantise(one, to) for one in weight])
    x = torch.randn(sum(counts), 64, generator=torch.Generator().manual_seed(2))
    x = x.to(torch.bfloat16)
    dense = [quantise(one, to).dense().double() for one in weight]
    parts = zip(x.double().split(counts), dense, strict=True)
    want = torch.cat([rows @ one.T for rows, one in parts])
    found = packed(x, counts)
    assert found.shape == want.shape and found.dtype == x.dtype
    # bf16 scales and results: 2^-8 each, over sums of 64 terms
    assert not len(x) or (found.double() - want).abs().max() < 0.012 * want.abs().max()


@pytest.mark.parametrize("preset", ["qwen3-30b-a3b", "mixtral-8x7b", "deepseek-v3"])
@pytest.mark.parametrize("to", ["int4", "int8"])
def test_a_packed_mixture_equals_its_own_weights_written_out(preset: str, to: str) -> None:
    model = tiny(preset)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    packed = pack_model(model, to, PACKED)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    written = pack_model(model, to, PACKED)
    count = 0
    for name, module in model.named_modules():
        if isinstance(module, ExpertFeedForward):
            count += 1
            assert isinstance(packed.get_submodule(name), PackedExpertFeedForward)
            plain = ExpertFeedForward(model.config, module.experts)
            own = written.get_submodule(name)
            plain.router, plain.shared, plain.shared_gate = own.router, own.shared, own.shared_gate
            for kind in ("gate", "up", "down"):
                dense = [quantise(one, to).dense() for one in getattr(module, kind).detach()]
                parameter = torch.nn.Parameter(torch.stack(dense).to(torch.bfloat16))
                setattr(plain, kind, parameter)
            parent, attribute = name.rsplit(".", 1)
            setattr(written.get_submodule(parent), attribute, plain.eval())
    assert count
    with torch.no_grad():
        one, two = (m(IDS).log_softmax(-1) for m in (packed, written))
        full = model(IDS).log_softmax(-1)
    assert (one - two).abs().max() < 0.08
    kl = (full.exp() * (full - one)).sum(-1).mean()
    assert 0 < kl < (0.02 if to == "int4" else 0.002)


@pytest.mark.parametrize("kind", ["q4_0", "q8_0"])
def test_a_gguf_file_s_experts_are_taken_as_they_are(tmp_path: Path, kind: str) -> None:
    """Its blocks are the codes; quantising again what they stand for is another matter."""
    path = tmp_path / "m.gguf"
    save_gguf(LanguageModel(tiny("mixtral-8x7b"), None), path, kind)
    model = load_model(path)
    stored = stored_blocks(path, model)
    stacks = {name: value for name, value in model.named_parameters() if value.dim() == 3}
    assert len(stacks) == 6
    for name, weights in stacks.items():
        dense = [one.dense() for one in stored[name]]
        assert torch.equal(torch.stack(dense), weights)
    packed = pack_model(model, "int4", PACKED, stored)
    again = pack_model(model, "int4", PACKED)
    x = torch.eye(64, dtype=torch.bfloat16).repeat(4, 1)  # each expert gives its columns
    for name, module in model.named_modules():
        if isinstance(module, ExpertFeedForward):
            gates = [m.get_submodule(name).packed_gate for m in (packed, again)]
            own, second = (gate(x, [64] * 4).unflatten(0, (4, 64)).mT.float() for gate in gates)
            size = module.gate.abs().max()
            error, by_twice = ((x - module.gate).abs().max() / size for x in (own, second))
            assert error < 2 * 2**-8  # scales and results in bf16
            assert kind == "q4_0" or by_twice > 0.02


def test_a_shared_expert_keeps_its_gate() -> None:
    values = tiny().config.model_dump()
    values["experts"] |= {"shared_width": 32, "shared_gate": True}
    model = build_model(type(tiny().config).parse(values), seed=3).eval()
    packed = pack_model(model, "int8", PACKED)
    x = torch.randn(1, 9, 64, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        found, want = (one.blocks[1].feedforward(x) for one in (packed, model))
    assert (found - want).abs().max() < 0.03 * want.abs().max()


def test_the_report_counts_the_experts() -> None:
    model = tiny()
    packed = pack_model(model, "int4", PACKED)
    experts = [m for m in packed.modules() if isinstance(m, PackedExperts)]
    own = sum(m.nbytes for m in experts)
    numbers = 2 * 4 * 3 * 64 * 32  # layers, experts, matrices
    assert len(experts) == 6 and own == numbers * (4 + 32 / 32) / 8
    assert not any(p.dim() == 3 for p in packed.parameters())
    assert read_bytes(packed) > own
    report = compare_quality(model, packed, IDS.flatten().tolist())
    assert report.kl > 0 and report.weight_bytes_quantised == read_bytes(packed)
    assert report.weight_bytes > 3 * report.weight_bytes_quantised


def test_columns_that_do_not_divide_stay_as_they_are() -> None:
    model = tiny(hidden=40)
    kept = pack_model(model, "int4", PACKED)
    assert not any(isinstance(m, PackedExperts) for m in kept.modules())
    assert any(p.dim() == 3 and p.dtype == torch.bfloat16 for p in kept.parameters())
    packed = pack_model(model, "int8", PACKED)
    assert not any(p.dim() == 3 for p in packed.parameters())
    with torch.no_grad():
        difference = (packed(IDS) - model(IDS)).abs().max()
    assert difference < 0.1


def test_the_engine_generates_with_packed_experts() -> None:
    lm = LanguageModel(tiny(), None)
    params = SamplingParams(max_tokens=8, temperature=0.0)
    settings = {"max_running": 2, "cache_bytes": 1 << 22, "deterministic": True, "step_tokens": 256}
    engine = Engine(lm, EngineConfig(weights="int4", **settings))
    found = engine.generate([[1, 2, 3], [4, 5]], params)
    for prompt, output in zip([[1, 2, 3], [4, 5]], found, strict=True):
        alone = engine.generate([prompt], params)[0].answers[0].ids
        assert output.answers[0].ids == alone and len(alone) == 8
