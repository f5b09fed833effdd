"""Models of the fastest kind: our own folder holds them bit for bit, other formats refuse them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from langwright.base import UserError, read_json
from langwright.cli import main
from langwright.formats import (
    check_exportable,
    load_model,
    opened_by,
    peek_model,
    save_gguf,
    save_model,
    transformers_architecture,
)
from langwright.generate import LanguageModel
from langwright.model import Transformer, build_model, model_config

EXTRAS = ("residual_scalars", "value_embeddings", "smear", "backout")
SMALL = {"preset": "langwright-fastest-1m", "width": 32, "layers": 3, "heads": 2}


@pytest.fixture
def model() -> Transformer:
    model = build_model(model_config(SMALL, vocab_size=40), seed=3).eval()
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def test_the_own_folder_gives_back_every_bit(model: Transformer, tmp_path: Path) -> None:
    save_model(tmp_path, model)
    table = read_json(tmp_path / "config.json")
    assert table["model_type"] == "langwright" and all(table[name] is True for name in EXTRAS)
    back = load_model(tmp_path)
    assert back.config == model.config
    own, again = dict(model.named_parameters()), dict(back.named_parameters())
    assert own.keys() == again.keys()
    assert all(torch.equal(own[name], again[name]) for name in own)
    ids = torch.arange(20).reshape(2, 10)
    assert torch.equal(back(ids), model(ids))
    assert peek_model(tmp_path).config.unexported == EXTRAS


def test_one_option_is_enough_to_be_ours_alone(tmp_path: Path) -> None:
    for name in EXTRAS:
        config = model_config({"preset": "qwen3-2m", name: True}, vocab_size=40)
        with pytest.raises(UserError, match="cannot hold it") as told:
            check_exportable(config, "GGUF")
        assert f"{name} = true" in str(told.value) and "qwen3-30m" in str(told.value)
        save_model(tmp_path / name, build_model(config))
        assert read_json(tmp_path / name / "config.json")["model_type"] == "langwright"
    check_exportable(model_config({"preset": "qwen3-30m"}), "GGUF")


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_export_refuses_with_the_reason_and_the_way_out(
    to: str, model: Transformer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path / "model", model)
    out = tmp_path / ("out.gguf" if to == "gguf" else "out")
    assert main(["export", str(tmp_path / "model"), "--to", to, "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "made for speed in training" in said and "value_embeddings = true" in said
    assert "preset = 'qwen3-30m'" in said and not out.exists()
    if to == "gguf":
        with pytest.raises(UserError, match="GGUF cannot hold it"):
            save_gguf(LanguageModel(model, None), out)


def test_flags_are_not_all_that_can_be_in_the_way() -> None:
    """The fast presets have none of the four, and yet no other program computes them."""
    fast = model_config({"preset": "langwright-fast-1m"})
    assert fast.unexported == () and opened_by(fast) == {}
    with pytest.raises(UserError, match="no architecture of transformers") as told:
        transformers_architecture(fast)
    assert "feedforward, norm_affine" in str(told.value.found)
    assert opened_by(model_config({"preset": "langwright-fastest-1m"})) == {}
    safe = model_config({"preset": "qwen3-30m", "tied": False, "init": "modern"})
    assert opened_by(safe) == {"transformers": "Qwen3ForCausalLM", "llama.cpp": "qwen3"}
    neox = model_config({"preset": "pythia-70m"})
    assert opened_by(neox) == {"transformers": "GPTNeoXForCausalLM"}


def test_export_to_transformers_refuses_what_it_does_not_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"preset": "langwright-fast-1m", "width": 32, "layers": 1, "heads": 2}
    save_model(tmp_path / "model", build_model(model_config(small, vocab_size=40)))
    out = tmp_path / "out"
    assert main(["export", str(tmp_path / "model"), "--to", "hf", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "no architecture of transformers" in said and "norm_affine" in said
    assert "preset = 'qwen3-30m'" in said and not out.exists()


def test_info_tells_it(
    model: Transformer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(tmp_path, model)
    assert main(["info", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "residual scalars, value embeddings, smear, backout: only Langwright opens it" in said
    assert "value tables" in said and "ValueEmbedding" in said
