"""The speed runs: one opens in other software, the other in Langwright alone, and both say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recipe_small import write_corpus

import langwright
from langwright.cli import main
from langwright.formats import opened_by
from langwright.recipe import load_recipe, planned_model, run_recipe

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
TEXT = "The cat ran far away from every dog."
TINY = (
    "sft=none",
    "evaluate=none",
    "corpus.valid_share=0.1",
    "tokenizer.vocab_size=320",
    "dataset.sequence_length=32",
    "model.layers=2",
    "model.width=32",
    "model.heads=2",
    "pretrain.steps=6",
    "pretrain.batch_tokens=256",
    "pretrain.evaluate_rows=4",
    "pretrain.sample_prompts=[]",
    "pretrain.precision=fp32",
    "pretrain.compile=false",
    "pretrain.schedule.warmup_steps=2",
)


def tiny_run(name: str, folder: Path, *changes: str) -> Path:
    """The folder of a tiny run of a recipe; its optimizer, schedule and packing are as they are."""
    run = run_recipe(
        FOLDER / f"{name}.toml",
        [*TINY, *changes],
        corpus=[write_corpus(folder / "text")],
        runs=folder / "runs",
        tell=lambda line: None,
    )
    return run.folder


@pytest.fixture(scope="module")
def speedrun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run of speedrun.toml."""
    return tiny_run("speedrun", tmp_path_factory.mktemp("speedrun"), "model.kv_heads=1")


def ids_and_logits(run: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """A text's ids (1, T), and the model's own logits (1, T, V)."""
    lm = langwright.load(run / "model", device="cpu")
    assert lm.tokenizer is not None
    ids = torch.tensor([lm.tokenizer.encode(TEXT)])
    with torch.no_grad():
        logits = lm.model.float()(ids)
    assert logits.std() > 0.01  # six updates have moved it: its head began near zero
    return ids, logits


def test_the_speed_run_opens_in_transformers(speedrun: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    out = str(tmp_path / "hf")
    assert main(["export", str(speedrun), "--to", "hf", "--type", "f32", "--out", out]) == 0
    ids, own = ids_and_logits(speedrun)
    words = transformers.AutoTokenizer.from_pretrained(out)
    assert words(TEXT)["input_ids"] == ids[0].tolist()
    model = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
    assert type(model).__name__ == "Qwen3ForCausalLM"
    with torch.no_grad():
        theirs = model(ids).logits
    torch.testing.assert_close(theirs, own, atol=1e-4, rtol=0)


def test_the_speed_run_opens_as_gguf(speedrun: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "tiny.gguf"
    assert main(["export", str(speedrun), "--to", "gguf", "--type", "f32", "--out", str(path)]) == 0
    reader = gguf.GGUFReader(path)
    assert reader.get_field("general.architecture").contents() == "qwen3"
    names = {tensor.name for tensor in reader.tensors}
    assert {"token_embd.weight", "output.weight", "blk.1.attn_q_norm.weight"} <= names
    ids, own = ids_and_logits(speedrun)
    with torch.no_grad():
        again = langwright.load(path, device="cpu").model.float()(ids)
    torch.testing.assert_close(again, own, atol=1e-4, rtol=0)


def test_the_fastest_is_refused_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tiny_run("speedrun-fastest", tmp_path)
    ids, own = ids_and_logits(run)
    assert own.shape == (*ids.shape, 320)
    assert main(["export", str(run), "--to", "hf", "--out", str(tmp_path / "hf")]) == 2
    assert "value_embeddings = true" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "programs", "told"),
    [
        (
            "speedrun",
            {"transformers": "Qwen3ForCausalLM", "llama.cpp": "qwen3"},
            "opens in transformers (Qwen3ForCausalLM), and as GGUF in llama.cpp",
        ),
        ("speedrun-fastest", {}, "opens in Langwright alone"),
    ],
)
def test_the_top_of_each_says_what_opens_it(name: str, programs: dict[str, str], told: str) -> None:
    path = FOLDER / f"{name}.toml"
    assert opened_by(planned_model(load_recipe(path))) == programs
    assert told in " ".join(line.strip("# \n") for line in path.open() if line.startswith("#"))
