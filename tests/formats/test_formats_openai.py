"""OpenAI's GPT-2 files, against a checkpoint that TensorFlow wrote and the logits it computed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.formats.crc32c import _bytewise, crc32c, masked
from langwright.formats.openai_files import PARAMETERS, openai_files
from langwright.formats.openai_gpt2 import (
    find_checkpoint,
    is_openai_folder,
    load_openai_gpt2,
    openai_config,
    openai_parameters,
    openai_tokenizer,
)
from langwright.formats.tf_checkpoint import TensorFlowCheckpoint
from langwright.model import Transformer, model_config, parameter_count

TINY = Path(__file__).parent / "data" / "openai_tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the checkpoint that TensorFlow wrote, to be spoilt."""
    return Path(shutil.copytree(TINY, tmp_path / "gpt2"))


def values_of(path: Path) -> dict[str, np.ndarray]:
    checkpoint = TensorFlowCheckpoint(path / "model.ckpt")
    return {name: checkpoint.read(name) for name in checkpoint.variables}


def logits_of(model: Transformer) -> tuple[torch.Tensor, torch.Tensor]:
    """Ours at the places that TensorFlow's were kept of, and TensorFlow's."""
    record = json.loads((TINY / "logits.json").read_text())
    with torch.no_grad():
        ours = model(torch.tensor(record["ids"]))
    return ours[:, -3:, ::5], torch.tensor(record["logits"], dtype=torch.float64)


def test_logits_equal_tensorflows() -> None:
    ours, theirs = logits_of(load_openai_gpt2(TINY, dtype=torch.float64))
    assert theirs.std() > 2
    assert (ours - theirs).abs().max() < 1e-7
    ours, theirs = logits_of(load_openai_gpt2(TINY))
    assert ours.dtype == torch.float32
    assert (ours - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("a_slip", ["wpe", "q and k", "ln", "gelu", "transposed"])
def test_any_slip_is_seen_in_the_logits(a_slip: str) -> None:
    """The comparison above would catch each of these (L6: any slip breaks it)."""
    model = load_openai_gpt2(TINY, dtype=torch.float64)
    if a_slip == "gelu":
        exact = model.config.replace(feedforward="gelu")
        other = Transformer(exact).double().eval()
        other.load_state_dict(model.state_dict())
        other.compute_dtype = torch.float64
        model = other
    weights = dict(model.named_parameters())
    with torch.no_grad():
        if a_slip == "wpe":
            weights["positions.weight"].copy_(weights["positions.weight"].roll(1, 0))
        elif a_slip == "q and k":
            q, k = weights["blocks.1.attention.q.bias"], weights["blocks.1.attention.k.bias"]
            q.data, k.data = k.data, q.data
        elif a_slip == "ln":
            a, b = (
                weights["blocks.0.attention_norm.bias"],
                weights["blocks.0.feedforward_norm.bias"],
            )
            a.data, b.data = b.data, a.data
        elif a_slip == "transposed":
            weights["blocks.0.attention.out.weight"].data = weights[
                "blocks.0.attention.out.weight"
            ].data.T
    ours, theirs = logits_of(model)
    assert (ours - theirs).abs().max() > 1e-4


def test_weights_go_to_transformers_class_by_the_table_of_names() -> None:
    """V33 and L8: the nested dictionaries, put into another implementation, give the same."""
    transformers = pytest.importorskip("transformers")
    settings, params = openai_parameters(TINY)
    assert settings == json.loads((TINY / "hparams.json").read_text())
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=settings["n_vocab"],
            n_positions=settings["n_ctx"],
            n_embd=settings["n_embd"],
            n_layer=settings["n_layer"],
            n_head=settings["n_head"],
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    state = {"transformer.wte.weight": params["wte"], "transformer.wpe.weight": params["wpe"]}
    state |= {"transformer.ln_f.weight": params["g"], "transformer.ln_f.bias": params["b"]}
    for number, block in enumerate(params["blocks"]):
        for part in ("ln_1", "ln_2"):
            state[f"transformer.h.{number}.{part}.weight"] = block[part]["g"]
            state[f"transformer.h.{number}.{part}.bias"] = block[part]["b"]
        for part in (("attn", "c_attn"), ("attn", "c_proj"), ("mlp", "c_fc"), ("mlp", "c_proj")):
            for short, kind in (("w", "weight"), ("b", "bias")):
                name = f"transformer.h.{number}.{'.'.join(part)}.{kind}"
                state[name] = block[part[0]][part[1]][short]
    state["lm_head.weight"] = params["wte"]
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in state.items()})
    ids = torch.randint(0, 262, (2, 24))
    with torch.no_grad():
        expected, ours = theirs(ids).logits, load_openai_gpt2(TINY)(ids)
    assert expected.std() > 2
    assert (ours - expected).abs().max() < 1e-4


def test_the_config_is_gpt2s() -> None:
    config = openai_config(TINY)
    assert (config.context_length, config.qkv_bias, config.tied) == (24, True, True)
    model = load_openai_gpt2(TINY, dtype=torch.bfloat16)
    assert not model.training and model.compute_dtype == torch.bfloat16
    total = sum(value.numel() for value in model.parameters())
    data = (TINY / "model.ckpt.data-00000-of-00001").stat().st_size
    assert 4 * total == data == 16_192
    assert all(value.isfinite().all() for value in model.parameters())


def test_the_tokenizer_of_the_folder(tmp_path: Path) -> None:
    tokenizer = openai_tokenizer(TINY)
    assert tokenizer is not None and tokenizer.vocab_size == 262
    assert tokenizer.special_tokens == {"<|endoftext|>": 261}
    assert tokenizer.encode("the thing at") == [257, 220, 256, 260, 70, 220, 259]
    assert openai_tokenizer(tmp_path) is None


def test_recognised_by_its_files(folder: Path, tmp_path: Path) -> None:
    assert is_openai_folder(folder) and not is_openai_folder(tmp_path)
    (folder / "config.json").write_text("{}")
    assert not is_openai_folder(folder)


def test_files_to_fetch() -> None:
    files = {file.name: file for file in openai_files("124M")}
    assert len(files) == 7
    data = files["model.ckpt.data-00000-of-00001"]
    assert data.size == 497_759_232  # V32
    assert data.url.endswith("/gpt-2/models/124M/model.ckpt.data-00000-of-00001")
    assert openai_files("gpt2-1558m") == openai_files("1558M")
    for size, count in PARAMETERS.items():
        assert (
            parameter_count(
                model_config({"preset": f"gpt2-{size.lower()}"}, vocab_size=50_257)
            ).total
            == count
        )
    with pytest.raises(UserError, match="did you mean '124M'"):
        openai_files("125M")


def test_checksums() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"") == 0
    long = np.random.default_rng(0).integers(0, 256, 8192 * 36 + 41, dtype=np.uint8)
    assert crc32c(long) == crc32c(long.tobytes()) == _bytewise(long.tobytes(), 0)
    changed = long.copy()
    changed[123_456] ^= 1
    assert crc32c(changed) != crc32c(long)
    assert masked(0) == 0xA282EAD8


@given(st.binary(max_size=40), st.binary(max_size=40))
@settings(max_examples=50, deadline=None)
def test_checksums_go_on(first: bytes, second: bytes) -> None:
    assert _bytewise(second, crc32c(first)) == crc32c(first + second)


@pytest.mark.parametrize(("per_block", "shards"), [(1, 1), (3, 4), (10**9, 2)])
def test_many_blocks_and_many_files(folder: Path, per_block: int, shards: int) -> None:
    values = values_of(folder)
    for file in folder.glob("model.ckpt*"):
        file.unlink()
    write_bundle(folder / "model.ckpt", values, per_block=per_block, shards=shards)
    again = values_of(folder)
    assert again.keys() == values.keys() and len(again) == 28
    assert all(np.array_equal(again[name], values[name]) for name in values)
    ours, theirs = logits_of(load_openai_gpt2(folder, dtype=torch.float64))
    assert (ours - theirs).abs().max() < 1e-7


def test_half_precision_and_optimizer_slots(folder: Path) -> None:
    values = {name: value.astype(np.float16) for name, value in values_of(folder).items()}
    values["model/wte/Adam"] = np.zeros((3, 2), np.float32)
    values["global_step"] = np.asarray(7, np.int64)
    write_bundle(folder / "model.ckpt", values)
    model = load_openai_gpt2(folder)
    assert torch.equal(model.tokens.weight, torch.from_numpy(values["model/wte"]).float())


def test_which_checkpoint_is_meant(folder: Path) -> None:
    write_bundle(folder / "model.ckpt-9", values_of(folder))
    assert find_checkpoint(folder).name == "model.ckpt"
    (folder / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt-9"\n')
    assert find_checkpoint(folder) == folder / "model.ckpt-9"
    (folder / "checkpoint").write_text('model_checkpoint_path: "../../etc/passwd"\n')
    with pytest.raises(UserError, match="not clear which"):
        find_checkpoint(folder)
    for file in folder.glob("*.index"):
        file.unlink()
    with pytest.raises(UserError, match="checkpoint is missing"):
        load_openai_gpt2(folder)
