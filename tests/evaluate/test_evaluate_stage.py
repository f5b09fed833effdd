"""The whole stage on a small corpus."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from langwright.base import UserError, write_json
from langwright.evaluate import (
    EvaluateConfig,
    bits_per_byte,
    classics,
    evaluate,
    join_documents,
    stage,
)
from langwright.evaluate.heldout import HeldOut, held_out, training_bytes
from langwright.evaluate.samples import beginnings
from langwright.formats import save_model
from langwright.generate import load
from langwright.model import Transformer
from langwright.tokenizer import CharTokenizer

DOCS = [f"Function number {i} returns the value of item {i * i}. " * 2 for i in range(60)]
CODE = [f"def function_{i}(x):\n    return x + {i}\n" * 3 for i in range(60)]
DOCUMENTS = {
    "train": {"docs": DOCS[:40], "code": CODE[:40]},
    "valid": {"docs": DOCS[40:50], "code": CODE[40:50]},
    "test": {"docs": DOCS[50:], "code": CODE[50:]},
}
CHATS = {"test": [[(f"What is {i}?", f"It is {i}.")] for i in range(6)]}
CONFIG = EvaluateConfig(
    headline_source="docs",
    max_heldout_bytes=700,
    samples=2,
    sample_tokens=20,
    answer_tokens=12,
    precision="fp32",
    device="cpu",
)


@pytest.fixture
def folder(
    tmp_path: Path, tiny_model: Callable[..., Transformer], tokenizer: CharTokenizer
) -> Path:
    save_model(tmp_path / "base", tiny_model(context_length=96), tokenizer)
    save_model(tmp_path / "tuned", tiny_model(width=16, context_length=96), tokenizer)
    (tmp_path / "out.partial").mkdir()
    return tmp_path


def test_evaluate(folder: Path, make_corpus: Callable[..., Path]) -> None:
    corpus = make_corpus(DOCUMENTS, CHATS)
    out = folder / "out.partial"
    metrics = evaluate(CONFIG, folder / "tuned", corpus, out, base=folder / "base")
    result = json.loads((out / "evaluation.json").read_text())
    headline = result["headline"]
    assert (headline["source"], headline["split"]) == ("docs", "test")
    rows = {(row["model"], row["split"], row["source"]): row for row in result["losses"]}
    assert set(rows) == {
        *(("base", split, name) for split in ("valid", "test") for name in ("docs", "code")),
        ("fine-tuned", "test", "docs"),
    }
    # The figure again, from the texts that were taken: whole documents up to the limit.
    base = load(folder / "base", device="cpu")
    row = rows["base", "test", "docs"]
    texts = DOCUMENTS["test"]["docs"]
    assert row["bytes"] <= 700 and row["whole_split"] is False and row["lossless"] is True
    everything = bits_per_byte(base.model, base.tokenizer, texts)
    assert row["bits_per_byte"] == pytest.approx(everything.bits_per_byte, rel=0.05)
    assert row["perplexity"] == pytest.approx(math.exp(row["nats_per_token"]))
    assert headline["model"]["bits_per_byte"] == row["bits_per_byte"] == metrics["bits_per_byte"]
    assert headline["model"]["low"] < row["bits_per_byte"] < headline["model"]["high"]
    assert set(headline) >= {"xz", "zstd", "5-gram"}
    whole = result["bits_per_byte"]["whole"]
    assert whole["model"]["bytes"] == sum(
        rows["base", "test", n]["bytes"] for n in ("docs", "code")
    )
    assert whole["xz"]["bits_per_byte"] > 0
    kinds = [sample["kind"] for sample in result["samples"]]
    assert kinds == ["unprompted"] * 2 + ["prompted"] * 2
    assert result["samples"][0]["text"] != result["samples"][1]["text"]
    assert result["memorisation"]["held_out"]["share"] >= 0
    assert result["questions"]["count"] == 6
    assert len(result["questions"]["shown"]) == 3
    assert result["questions"]["loss_before"] != result["questions"]["loss_after"]
    assert result["test_split"]["times_measured"] == 1
    assert result["settings"]["headline_source"] == "docs"


def test_the_same_twice_and_the_test_split_is_counted(
    folder: Path, make_corpus: Callable[..., Path]
) -> None:
    corpus, config = make_corpus(DOCUMENTS, {}), CONFIG.replace(classics=False, questions=0)
    out = folder / "out.partial"
    first = evaluate(config, folder / "base", corpus, out)
    result = json.loads((out / "evaluation.json").read_text())
    assert {row["model"] for row in result["losses"]} == {"model"}
    assert set(result["headline"]) == {"source", "split", "model"}
    write_json(folder / "out" / "evaluation.json", result)  # as the recipe leaves it
    assert evaluate(config, folder / "base", corpus, out) == first
    again = json.loads((out / "evaluation.json").read_text())
    assert again["test_split"]["times_measured"] == 2
    assert again["samples"] == result["samples"]


def test_classics_are_those_of_the_same_bytes(
    folder: Path, make_corpus: Callable[..., Path]
) -> None:
    only = {"train": {"docs": DOCS[:40]}, "valid": {"docs": DOCS[40:]}}
    config = CONFIG.replace(max_heldout_bytes=10**6, questions=0, samples=0)
    evaluate(config, folder / "base", make_corpus(only, {}), folder / "out.partial")
    result = json.loads((folder / "out.partial" / "evaluation.json").read_text())
    assert list(result["bits_per_byte"]) == ["docs"]
    assert result["headline"]["split"] == "valid"
    assert result["test_split"] == {**result["test_split"], "measured": False, "times_measured": 0}
    train, size = join_documents(DOCS[:40]), sum(map(len, DOCS[40:]))
    found = result["headline"]["5-gram"]["bits_per_byte"]
    # The order of the held-out documents is seeded; the static 5-gram hardly depends on it.
    expected = classics(train, join_documents(DOCS[40:]), text_bytes=size)["5-gram"].bits_per_byte
    assert found == pytest.approx(expected, rel=0.02)
    assert result["headline"]["model"]["bytes"] == size
    assert result["classics_training"] == {"bytes": len(train), "all_of_it": True}


def test_wrong_source_and_empty_corpus(folder: Path, make_corpus: Callable[..., Path]) -> None:
    out = folder / "out.partial"
    corpus = make_corpus(DOCUMENTS, {})
    with pytest.raises(UserError, match="did you mean 'docs'"):
        evaluate(CONFIG.replace(headline_source="dics"), folder / "base", corpus, out)
    for split in ("valid", "test"):
        for path in (corpus / split).glob("*.parquet"):
            path.unlink()
    with pytest.raises(UserError, match="no held-out documents"):
        evaluate(CONFIG, folder / "base", corpus, out)


def test_prompts_are_spread_over_the_sources() -> None:
    held = [
        HeldOut(
            name, "test", [f"{name} document {i:02} begins like this " * 3 for i in range(10)], 1, 1
        )
        for name in ("a", "b")
    ]
    found = beginnings([*held, HeldOut("short", "test", ["tiny"], 4, 1)], 5)
    assert [text.split()[0] for text in found] == ["a", "b", "a", "b", "a"]
    assert [int(text.split()[2]) for text in found] == [0, 0, 3, 3, 6]
    assert all(20 <= len(text) <= 60 for text in found)
    assert beginnings([], 3) == []


def test_held_out_texts_are_a_seeded_part_in_corpus_order(make_corpus: Callable[..., Path]) -> None:
    corpus = make_corpus(DOCUMENTS, {})
    whole = held_out(corpus, "test", "docs", 10**6, seed=0)
    assert whole.texts == DOCS[50:] and whole.whole_split
    parts = [held_out(corpus, "test", "docs", 500, seed) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]
    assert parts[0].bytes <= 500 and not parts[0].whole_split
    assert [text for text in DOCS if text in parts[0].texts] == parts[0].texts
    assert len(held_out(corpus, "test", "docs", 1, seed=0).texts) == 1


def test_training_text_keeps_the_headline_last(make_corpus: Callable[..., Path]) -> None:
    corpus = make_corpus(DOCUMENTS, {})
    docs, code = join_documents(DOCS[:40]), join_documents(CODE[:40])
    assert training_bytes(corpus, "docs", 10**6) == (code + docs, True)
    some, whole = training_bytes(corpus, "docs", len(docs) + 200)
    assert some.endswith(docs) and not whole and len(docs) < len(some) <= len(docs) + 200
    assert training_bytes(corpus, "docs", 0) == (b"", False)


def test_an_interruption_ends_the_compressors_too(
    folder: Path, make_corpus: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "draw_samples", interrupted)
    out = folder / "out.partial"
    with pytest.raises(KeyboardInterrupt):
        evaluate(CONFIG, folder / "base", make_corpus(DOCUMENTS, {}), out)
    assert not (out / "evaluation.json").exists()
