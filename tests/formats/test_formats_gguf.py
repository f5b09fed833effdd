"""GGUF files in and out: kinds of numbers, tensors, architectures, refusals."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gguf_models import BASE, CASES, ids_of, random_lm, random_model, tokenizer
from hypothesis import given
from hypothesis import strategies as st

import langwright
from langwright.base import UserError
from langwright.formats.gguf import (
    GgufFile,
    gguf_architecture,
    load_gguf,
    load_gguf_model,
    load_gguf_tokenizer,
    read_gguf_config,
    save_gguf,
)
from langwright.formats.gguf.dequantise import LAYOUTS, dequantise
from langwright.formats.gguf.kinds import BY_NAME, KINDS, Kind
from langwright.formats.gguf.names import interleave, separate
from langwright.formats.gguf.quantise import quantise
from langwright.formats.gguf.writer import OutTensor, write_gguf
from langwright.model import ModelConfig

VALUES = 64 * 256


def random_blocks(kind: Kind) -> bytes:
    """Any bytes, but with scales that are finite numbers."""
    generator = np.random.default_rng(1)
    if kind.name not in LAYOUTS:
        return quantise(generator.normal(size=VALUES).astype(np.float32), kind)
    raw = np.frombuffer(generator.bytes(kind.nbytes(VALUES)), LAYOUTS[kind.name]).copy()
    for field in ("d", "m"):
        if field in (raw.dtype.names or ()):
            raw[field] = generator.normal(size=len(raw))
    return raw.tobytes()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_numbers_are_the_reference_s(kind):
    """Bit for bit those of ggml's own package."""
    quants = pytest.importorskip("gguf").quants
    raw = random_blocks(kind)
    assert len(raw) == kind.nbytes(VALUES)
    theirs = quants.dequantize(np.frombuffer(raw, np.uint8).reshape(64, -1), kind.code)
    ours = dequantise(memoryview(raw), kind, VALUES)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs.reshape(-1))


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q8_0"])
def test_bytes_are_the_reference_s(name):
    quants = pytest.importorskip("gguf").quants
    generator = np.random.default_rng(2)
    values = generator.normal(size=(64, 256)) * generator.lognormal(size=(64, 1), sigma=3)
    values = values.astype(np.float32)
    values[3] = 0
    kind = BY_NAME[name]
    assert quantise(values, kind) == quants.quantize(values, kind.code).tobytes()


def test_four_bits_beat_the_reference():
    quants = pytest.importorskip("gguf").quants
    values = np.random.default_rng(2).standard_normal((64, 256)).astype(np.float32)
    values[3] = 0
    kind = BY_NAME["Q4_0"]
    theirs = quants.dequantize(quants.quantize(values, kind.code), kind.code)
    ours = dequantise(memoryview(quantise(values, kind)), kind, values.size).reshape(values.shape)
    assert not ours[3].any()
    errors = [np.square(one - values).reshape(-1, 32).sum(1) for one in (ours, theirs)]
    assert errors[0].mean() < 0.93 * errors[1].mean()


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=32, max_size=32))
def test_rounding_is_within_half_a_step(values):
    array = np.array(values, np.float32)
    largest = np.abs(array).max()
    for name, steps in (("Q8_0", 127), ("Q4_0", 8)):
        again = dequantise(memoryview(quantise(array, BY_NAME[name])), BY_NAME[name], 32)
        # Half a step, a whole one at the end of -8..7; the scale has 11 bits, the smallest fewer.
        most = largest / steps * (0.55 if name == "Q8_0" else 1.3) + steps * 2.0**-24
        assert np.abs(again - array).max() <= most


def test_interleaving_is_llama_s():
    """Row 2i of a head is our row i, row 2i + 1 our row i + h/2."""
    rows = torch.arange(2 * 8)
    assert interleave(rows, 2)[:8].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert interleave(rows, 2)[8:].tolist() == [8, 12, 9, 13, 10, 14, 11, 15]
    matrix = torch.randn(16, 5)
    assert torch.equal(separate(interleave(matrix, 2), 2), matrix)


@pytest.mark.parametrize("name", CASES)
def test_every_architecture_comes_back(name, tmp_path):
    architecture, settings = CASES[name]
    lm = random_lm(**settings)
    assert gguf_architecture(lm.model.config) == architecture
    path = tmp_path / "model.gguf"
    save_gguf(lm, path, "f32")
    with GgufFile(path) as file:
        assert file.metadata["general.architecture"] == architecture
    again, words = load_gguf(path)
    ours = dict(lm.model.named_parameters())
    theirs = dict(again.named_parameters())
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        # Gemma's norms are stored with 1 added.
        torch.testing.assert_close(theirs[key], value, rtol=0, atol=1.2e-7)
    ids = ids_of(60)
    torch.testing.assert_close(again(ids), lm.model(ids), rtol=0, atol=2e-4)
    assert words.encode("abc \u00e9 <|im_end|>") == lm.tokenizer.encode("abc \u00e9 <|im_end|>")
    # Written again, the file is the same.
    save_gguf(SimpleNamespace(model=again, tokenizer=words), tmp_path / "again.gguf", "f32")
    if "norm_offset" not in settings:
        assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("type", ["f16", "bf16", "q8_0", "q4_0"])
def test_types(type, tmp_path):
    lm = random_lm(tied=False)
    save_gguf(lm, tmp_path / "model.gguf", type, about={"name": "tiny", "license": "mit"})
    config, metadata = read_gguf_config(tmp_path / "model.gguf")
    assert metadata["general.name"] == "tiny" and metadata["general.license"] == "mit"
    assert config.width == lm.model.config.width
    with GgufFile(tmp_path / "model.gguf") as file:
        kinds = {name: info.kind.name for name, info in file.tensors.items()}
    assert kinds["blk.0.attn_q.weight"] == type.upper()
    assert kinds["blk.0.attn_norm.weight"] == "F32"
    assert kinds["output.weight"] == ("Q8_0" if type == "q4_0" else type.upper())
    again = load_gguf_model(tmp_path / "model.gguf", dtype=torch.float16)
    assert again.compute_dtype == again.tokens.weight.dtype == torch.float16
    ours = lm.model.blocks[0].feedforward.down.weight
    error = (again.blocks[0].feedforward.down.weight - ours).norm() / ours.norm()
    assert error < {"f16": 5e-4, "bf16": 3e-3, "q8_0": 8e-3, "q4_0": 0.1}[type]


def test_rows_that_are_no_whole_blocks(tmp_path):
    lm = random_lm(hidden_width=80)
    save_gguf(lm, tmp_path / "model.gguf", "q8_0")
    with GgufFile(tmp_path / "model.gguf") as file:
        assert file.tensors["blk.0.ffn_down.weight"].kind.name == "F16"
        assert file.tensors["blk.0.ffn_up.weight"].kind.name == "Q8_0"


def test_langwright_load(tmp_path):
    lm = random_lm()
    save_gguf(lm, tmp_path / "model.gguf", "f32")
    loaded = langwright.load(tmp_path / "model.gguf", device="cpu")
    ids = ids_of(20)
    assert torch.equal(loaded.model(ids), lm.model(ids))
    assert loaded.tokenizer.eos_id == lm.tokenizer.eos_id
    # The new token may be a byte that is half a character.
    assert isinstance(loaded.generate("abc", max_tokens=3, temperature=0), str)


def test_without_a_tokenizer(tmp_path):
    save_gguf(SimpleNamespace(model=random_model(), tokenizer=None), tmp_path / "m.gguf", "f32")
    assert load_gguf_tokenizer(tmp_path / "m.gguf") is None
    assert load_gguf(tmp_path / "m.gguf")[1] is None


def test_the_head_stored_twice(tmp_path):
    """Old GPT-2 files hold the embedding a second time as the head: one matrix for us."""
    model = random_model(**CASES["gpt2"][1], tied=False)
    model.head.weight.data.copy_(model.tokens.weight)
    lm = SimpleNamespace(model=model, tokenizer=tokenizer())
    save_gguf(lm, tmp_path / "model.gguf", "f16")
    again = load_gguf_model(tmp_path / "model.gguf")
    assert again.config.tied and "head.weight" not in dict(again.named_parameters())
    model.head.weight.data[0, 0] += 1
    save_gguf(lm, tmp_path / "model.gguf", "f16")
    assert not load_gguf_model(tmp_path / "model.gguf").config.tied


def test_the_reference_reads_ours_and_we_its(tmp_path):
    gguf = pytest.importorskip("gguf")
    lm = random_lm(**CASES["qwen2"][1])
    save_gguf(lm, tmp_path / "ours.gguf", "q8_0")
    reader = gguf.GGUFReader(tmp_path / "ours.gguf")
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "qwen2")
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = field.contents()
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        if kind == gguf.GGUFValueType.UINT32:  # another width of the same number
            kind = gguf.GGUFValueType.UINT64
        writer.add_key_value(key, value, kind, element)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ours, theirs = (load_gguf(tmp_path / f"{name}.gguf") for name in ("ours", "theirs"))
    assert ours[0].config == theirs[0].config
    for one, other in zip(ours[0].parameters(), theirs[0].parameters(), strict=True):
        assert torch.equal(one, other)
    assert ours[1].ranks == theirs[1].ranks


REFUSED = {
    "alibi": {"position": "alibi"},
    "erf": {**CASES["gpt2"][1], "feedforward": "gelu"},
    "post": {"norm_placement": "post"},
    "scale": {"attention_scale": 0.3},
    "window": {"window": 16},
    "sinks": {"attention_sinks": True},
    "nope": {"rotary_layers": [True, True, True, False]},
    "reach": {**CASES["gemma2"][1], "reach": ["global", "local"]},
    "base": {**CASES["gemma3"][1], "rotary_base_local": 2e4},
    "betas": {"rotary_scaling": {"kind": "yarn", "factor": 4.0, "beta_fast": 16.0}},
    "yarn": {"rotary_scaling": {"kind": "yarn", "factor": 4.0, "attention_factor": 1.0}},
    "ntk": {"rotary_scaling": {"kind": "ntk", "factor": 4.0}},
    "experts": {"experts": {"count": 4, "chosen": 2, "normalise": False}},
    "share": {"rotary_share": 0.5},
    "softcap": {"logit_softcap": 30.0},
    "embedding": {"embedding_scale": 2.0},
}
NAMED = {
    "alibi": "position",
    "erf": "feedforward",
    "post": "norm_placement",
    "scale": "attention_scale",
    "window": "window",
    "sinks": "attention_sinks",
    "nope": "rotary_layers",
    "reach": "reach",
    "base": "rotary_base_local",
    "betas": "rotary_scaling",
    "yarn": "rotary_scaling",
    "ntk": "rotary_scaling",
    "experts": "experts",
    "share": "rotary_share",
    "softcap": "logit_softcap",
    "embedding": "embedding_scale",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_llama_cpp_would_compute_otherwise_is_not_written(name):
    config = ModelConfig(**{**BASE, **REFUSED[name]})
    with pytest.raises(UserError, match=f"(?s)no architecture.*{NAMED[name]}"):
        gguf_architecture(config)


@pytest.mark.parametrize(
    "settings",
    [{"window": 128}, {"dropout_attention": 0.1}, {"attention_scale": 0.25}, {"head_width": 16}],
)
def test_what_changes_nothing_is_written(settings):
    assert gguf_architecture(ModelConfig(**{**BASE, **settings})) == "llama"


def test_numbers_too_large_for_the_type(tmp_path):
    lm = random_lm()
    lm.model.tokens.weight.data[3, 3] = 1e5
    with pytest.raises(UserError, match=r"token_embd.weight holds numbers that F16 cannot"):
        save_gguf(lm, tmp_path / "model.gguf", "f16")
    assert not list(tmp_path.iterdir())
    save_gguf(lm, tmp_path / "model.gguf", "bf16")


def test_unknown_type(tmp_path):
    with pytest.raises(UserError, match="f32, f16, bf16, q8_0, q4_0"):
        save_gguf(random_lm(), tmp_path / "model.gguf", "q2_k")


def rewritten(tmp_path, change):
    """A file of ours with changed metadata."""
    save_gguf(random_lm(), tmp_path / "model.gguf", "f32")
    with GgufFile(tmp_path / "model.gguf") as file:
        metadata = dict(file.metadata)
        tensors = {name: file.read(name) for name in file.tensors}
    change(metadata, tensors)
    plain = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in metadata.items()}
    out = [
        OutTensor(name, value.shape, BY_NAME["F32"], lambda value=value: value)
        for name, value in tensors.items()
    ]
    write_gguf(tmp_path / "changed.gguf", plain, out)
    return tmp_path / "changed.gguf"


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("general.architecture", "mamba", "architecture is not one"),
        ("llama.rope.scaling.type", "mystery", "llama.rope.scaling.type"),
        ("llama.attention.value_length", 32, "value_length"),
        ("llama.attention.head_count", 0, "head_count"),
        ("llama.attention.head_count_kv", [2, 2, 2, 1], "head_count_kv"),
        ("llama.block_count", 1000, "block_count"),
        ("llama.block_count", 3, "no place"),
        ("llama.block_count", 5, "missing"),
        ("llama.embedding_length", 128, "shape|multiple"),
        ("llama.rope.dimension_count", 40, "dimension_count"),
        ("llama.attention.layer_norm_rms_epsilon", "small", "epsilon"),
        ("llama.context_length", 2**31, "context_length"),
    ],
)
def test_settings_that_we_cannot_follow(key, value, message, tmp_path):
    path = rewritten(tmp_path, lambda metadata, _: metadata.update({key: value}))
    with pytest.raises(UserError, match=message) as caught:
        load_gguf(path)
    assert "changed.gguf" in str(caught.value)


def test_the_same_number_for_each_layer_is_one_number(tmp_path):
    path = rewritten(
        tmp_path, lambda metadata, _: metadata.update({"llama.attention.head_count_kv": [2] * 4})
    )
    assert load_gguf_model(path).config.key_heads == 2


def test_divisors_that_are_no_known_scaling(tmp_path):
    divisors = np.linspace(1, 3, 8).astype(np.float32)
    path = rewritten(tmp_path, lambda _, tensors: tensors.update({"rope_freqs.weight": divisors}))
    scaling = load_gguf_model(path).config.rotary_scaling
    assert scaling.short_factors == scaling.long_factors == tuple(map(float, divisors))


def test_bad_weights_are_named(tmp_path):
    path = rewritten(tmp_path, lambda _, tensors: None)
    raw = bytearray(path.read_bytes())
    with GgufFile(path) as file:
        start = file.tensors["blk.1.ffn_up.weight"].start
    raw[start : start + 4] = np.float32(np.nan).tobytes()
    path.write_bytes(raw)
    with pytest.raises(UserError, match=r"blk.1.ffn_up.weight holds NaN"):
        load_gguf(path)
    load_gguf(path, check_finite=False)
