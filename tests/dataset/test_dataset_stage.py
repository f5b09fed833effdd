"""The stage with the real rooms before it: corpus files in, a tokenizer folder in."""

import json

import pytest

from langwright.base import UserError, run_stage
from langwright.dataset import (
    DatasetConfig,
    TokenShards,
    build_dataset,
    eval_windows,
    open_training_rows,
)
from langwright.tokenizer import TokenizerConfig, load_tokenizer, train_tokenizer


@pytest.fixture
def rooms(tmp_path):
    """A corpus of two sources, and a small BPE trained on it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    corpus, tokenizer = tmp_path / "corpus", tmp_path / "tokenizer"
    texts = {
        ("train", "tales"): [f"Tale {i}: the fox ran on and on, éé. " * 3 for i in range(40)],
        ("train", "code"): [f"def f{i}(x):\n    return x + {i}\n" for i in range(30)],
        ("valid", "tales"): ["A tale: the fox ran. <|endoftext|> <|im_start|>", "On and on."],
    }
    for (split, source), documents in texts.items():
        columns = {
            "id": [f"{source}-{i}" for i in range(len(documents))],
            "source": [source] * len(documents),
            "text": documents,
            "meta": [json.dumps({"n": i}) for i in range(len(documents))],
        }
        (corpus / split).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), corpus / split / f"{source}.parquet")
    (corpus / "report.json").write_text("{}")
    tokenizer.mkdir()
    every = [text for documents in texts.values() for text in documents]
    train_tokenizer(TokenizerConfig(vocab_size=384), every).save(tokenizer)
    return corpus, tokenizer, texts


def test_documents_come_back_as_they_were(rooms, tmp_path):
    corpus, folder, texts = rooms
    out = tmp_path / "dataset"
    config = DatasetConfig(sequence_length=32, weights={"tales": 0.8, "code": 0.2})

    def work(partial):
        return build_dataset(config, corpus, folder, partial, quiet=True)

    inputs = {"corpus": "one", "tokenizer": "two"}
    manifest = run_stage("dataset", out, work, config=config.to_json(), inputs=inputs)
    tokenizer = load_tokenizer(folder)
    shards = TokenShards(out)
    assert shards.meta.separator == shards.meta.head == tokenizer.eos_id
    for (split, source), documents in texts.items():
        stream = shards.stream(split, source)
        for number, text in enumerate(documents):
            ids = stream.document(number).tolist()
            assert ids[-1] == tokenizer.eos_id and tokenizer.eos_id not in ids[:-1]
            assert tokenizer.decode(ids[:-1]) == text
            assert stream.document_bytes[number] == len(text.encode())
    assert manifest.metrics["splits"]["train"]["tales"]["documents"] == 40
    assert manifest.metrics["training"]["tales"]["share"] == pytest.approx(0.8, abs=1e-3)
    rows = open_training_rows(out, seed=1)
    assert rows.names == ["code", "tales"]
    assert rows.passes(4096)["tales"] * rows.rows[1].epoch_rows == rows.quotas[1]
    valid = eval_windows(out, "valid", "tales")
    assert valid.bytes == sum(len(text.encode()) for text in texts["valid", "tales"])
    shards.verify()


def test_same_input_same_bytes(rooms, tmp_path):
    corpus, folder, _ = rooms
    config = DatasetConfig(sequence_length=16, shard_tokens=100)
    found = []
    for name in ("one", "two"):
        build_dataset(config, corpus, folder, tmp_path / name, quiet=True)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        found.append([(path.name, path.read_bytes()) for path in files])
    assert found[0] == found[1] and len(found[0]) > 6


def test_a_corpus_without_training_text(rooms, tmp_path):
    corpus, folder, _ = rooms
    for path in (corpus / "train").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no training text"):
        build_dataset(DatasetConfig(), corpus, folder, tmp_path / "out", quiet=True)
