"""Efficiency, the viewer, tensors, configs, the stage."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizer_samples import SAMPLE

from langwright.base import UserError
from langwright.tokenizer import (
    END_OF_TEXT,
    CharTokenizer,
    TokenizerConfig,
    WordTokenizer,
    add_marks,
    build_tokenizer,
    compare_sizes,
    efficiency,
    ids_to_text,
    load_tokenizer,
    pad_rows,
    show_tokens,
    text_to_ids,
)
from langwright.tokenizer.build import share_out


def test_efficiency_counts(bpe):
    texts = {"prose": ["Größe und Maß", "ja"], "code": [SAMPLE], "none": []}
    report = efficiency(bpe, texts)
    prose = report["prose"]
    tokens = sum(len(bpe.encode(text)) for text in texts["prose"])
    assert (prose["documents"], prose["words"], prose["characters"]) == (2, 4, 15)
    assert prose["bytes"] == len("Größe und Maßja".encode())
    assert prose["tokens"] == tokens
    assert prose["bytes_per_token"] == pytest.approx(prose["bytes"] / tokens)
    assert prose["tokens_per_word"] == pytest.approx(tokens / 4)
    assert report["none"]["bytes_per_token"] is None
    assert report["all"]["tokens"] == prose["tokens"] + report["code"]["tokens"]
    used = len(set(bpe.encode(SAMPLE)))
    ordinary = bpe.vocab_size - len(bpe.special_tokens)
    assert report["code"]["vocabulary_used"] == pytest.approx(used / ordinary)
    # It was trained on the second kind, which it fits better.
    assert report["code"]["bytes_per_token"] > prose["bytes_per_token"]
    json.dumps(report)


def test_unknown_share():
    tokenizer = WordTokenizer.train(["a b"], unknown="unk")
    report = efficiency(tokenizer, {"x": ["a c a d"]})
    assert report["x"]["unknown_share"] == 0.5
    assert report["x"]["vocabulary_used"] == 0.5


def test_sizes_are_compared_without_training_again(bpe):
    rows = compare_sizes(bpe, [SAMPLE], [273, 320, 448], width=64)
    assert [row["vocab_size"] for row in rows] == [273, 320, 448]
    assert rows[0]["bytes_per_token"] == 1.0
    assert rows[0]["tokens"] > rows[1]["tokens"] > rows[2]["tokens"]
    assert rows[2]["embedding"] == 448 * 64


def test_viewer(bpe):
    text = "Grüß <b>\n\x07 & <|im_end|> 😀"
    shown = show_tokens(bpe, text + END_OF_TEXT, allowed_special={END_OF_TEXT})
    assert shown.ids[-1] == bpe.eos_id
    assert len(shown.pieces) == len(shown.ids)
    assert shown.html.count("<span") == len(shown.ids)
    assert "<b>" not in shown.html.replace("<b></b>", "")
    assert f'title="{bpe.eos_id}"' in shown.html
    assert "\\x07" in shown.text.plain
    assert "\\xf0" in shown.text.plain or "😀" in shown.text.plain
    assert len(shown.text.spans) == len([piece for piece in shown.pieces if piece])


def test_text_to_tensor_and_back(bpe):
    ids = text_to_ids(bpe, "Hello<|endoftext|><|im_end|>")
    assert ids.dtype == torch.int64
    assert ids.shape[0] == 1
    assert (ids == bpe.eos_id).sum() == 1
    assert bpe.special_tokens["<|im_end|>"] not in ids
    assert ids_to_text(bpe, ids) == ids_to_text(bpe, ids[0]) == "Hello<|endoftext|><|im_end|>"
    with pytest.raises(UserError, match="one row"):
        ids_to_text(bpe, torch.zeros(2, 3, dtype=torch.int64))


def test_marks_and_padding(bpe):
    tokenizer = CharTokenizer.train(["abc"], ["[BOS]", "[EOS]", "[PAD]"], bos="[BOS]", eos="[EOS]")
    assert add_marks(tokenizer, [0, 1], bos=True, eos=True) == [3, 0, 1, 4]
    with pytest.raises(UserError, match="no bos token"):
        add_marks(bpe, [1], bos=True)
    ids, mask = pad_rows(bpe, [[1, 2, 3], [4], []])
    assert ids.tolist() == [[1, 2, 3], [4] + [bpe.pad_id] * 2, [bpe.pad_id] * 3]
    assert mask.tolist() == [[True] * 3, [True, False, False], [False] * 3]
    ids, _ = pad_rows(tokenizer, [[1, 2], [0]])
    assert ids.tolist() == [[1, 2], [0, 4]]  # the document separator stands in for padding
    with pytest.raises(UserError, match="neither a pad nor an eos"):
        pad_rows(CharTokenizer.train(["ab"]), [[0], [0, 1]])


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"kind": "gpt2"}, "needs a path"),
        ({"path": "x"}, "takes no path"),
        ({"special_tokens": ["<a>", "<a>"]}, "different"),
        ({"eos_token": "<x>"}, "not among"),
        ({"special_tokens": ["<|unk|>"]}, "unknown"),
        ({"source_weights": {"a": -1}}, "negative"),
        ({"vocab_sise": 5}, "vocab_size"),
        ({"kind": "bpee"}, "kind"),
        ({"pattern": "gpt5"}, "pattern"),
        ({"vocab_size": 0}, "vocab_size"),
    ],
)
def test_configs_that_cannot_be(values, told):
    with pytest.raises(UserError, match=told):
        TokenizerConfig.parse(values)


def test_sharing_out_training_text():
    equal = {"a": 1.0, "b": 1.0, "c": 1.0}
    assert share_out(300, {"a": 1000, "b": 1000, "c": 1000}, equal) == {
        "a": 100,
        "b": 100,
        "c": 100,
    }
    assert share_out(300, {"a": 20, "b": 1000, "c": 1000}, equal) == {"a": 20, "b": 140, "c": 140}
    assert share_out(300, {"a": 20, "b": 30, "c": 40}, equal) == {"a": 20, "b": 30, "c": 40}
    assert share_out(100, {"a": 1000, "b": 1000}, {"a": 3.0, "b": 1.0}) == {"a": 75, "b": 25}


def write_corpus(folder, splits):
    """A corpus artifact: split -> source -> texts."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    for split, by_source in splits.items():
        for source, texts in by_source.items():
            path = folder / "corpus" / split / f"{source}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            table = {
                "id": [f"{source}-{split}-{index}" for index in range(len(texts))],
                "source": [source] * len(texts),
                "text": texts,
                "meta": ["{}"] * len(texts),
            }
            pq.write_table(pa.table(table), path)
    return folder / "corpus"


CODE = [f"def f{index}(x): return x\n" for index in range(20)]


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(
        tmp_path,
        {
            "train": {
                "prose": [f"the cat number {index} sat on the mat " * 3 for index in range(200)],
                "code": CODE,
            },
            "valid": {"prose": ["the cat sat"], "code": ["def g(x): return x\n"]},
            "test": {"prose": ["zqzq " * 50]},
        },
    )


def test_the_stage(corpus, tmp_path):
    pytest.importorskip("langwright.corpus").read_documents  # noqa: B018
    out = tmp_path / "out"
    out.mkdir()
    metrics = build_tokenizer(TokenizerConfig(vocab_size=320), corpus, out)
    tokenizer = load_tokenizer(out)
    assert metrics["vocab_size"] == tokenizer.vocab_size == 320
    report = json.loads((out / "efficiency.json").read_text())
    assert set(report["valid"]) == {"prose", "code", "all"}
    assert metrics["bytes_per_token"]["prose"] == report["valid"]["prose"]["bytes_per_token"]
    assert metrics["bytes_per_token"]["prose"] > 1.5
    assert tokenizer.ranks.get(b" zq") is None  # nothing was learned from the other splits
    again = tmp_path / "again"
    again.mkdir()
    build_tokenizer(TokenizerConfig(vocab_size=320), corpus, again)
    assert (again / "tokenizer.json").read_bytes() == (out / "tokenizer.json").read_bytes()


def test_the_stage_takes_equal_parts_of_the_sources(corpus, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    config = TokenizerConfig(vocab_size=320, training_characters=900)
    used = build_tokenizer(config, corpus, out)["training_characters"]
    assert used == {"code": sum(map(len, CODE)), "prose": 900 - sum(map(len, CODE))}
    config = config.replace(training_characters=100)
    used = build_tokenizer(config, corpus, out)["training_characters"]
    assert used == {"code": 50, "prose": 50}
    config = TokenizerConfig(vocab_size=320, source_weights={"code": 1.0})
    assert set(build_tokenizer(config, corpus, out)["training_characters"]) == {"code"}
    with pytest.raises(UserError, match="no such source"):
        build_tokenizer(TokenizerConfig(source_weights={"cod": 1.0}), corpus, out)


def test_the_stage_with_a_given_vocabulary(corpus, tmp_path, bpe):
    bpe.save(tmp_path / "given")
    out = tmp_path / "out"
    out.mkdir()
    config = TokenizerConfig(kind="pretrained", path=str(tmp_path / "given"))
    assert build_tokenizer(config, corpus, out)["vocab_size"] == bpe.vocab_size
    assert load_tokenizer(out).to_json() == bpe.to_json()
