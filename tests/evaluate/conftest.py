"""Small models and corpora to measure."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from langwright.model import ModelConfig, Transformer, build_model
from langwright.tokenizer import CharTokenizer

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture
def tokenizer() -> CharTokenizer:
    return CharTokenizer.train(
        [string.printable + "é"], SPECIALS, eos="<|endoftext|>", unknown="unk"
    )


def build(**changes: object) -> Transformer:
    values = {
        "vocab_size": 105,
        "context_length": 32,
        "width": 32,
        "layers": 2,
        "heads": 4,
        "position": "learned",
        "dropout_residual": 0.5,
        **changes,
    }
    model = build_model(ModelConfig.parse(values), seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    return model


@pytest.fixture
def tiny_model() -> Callable[..., Transformer]:
    return build


def write_corpus(
    folder: Path,
    documents: dict[str, dict[str, list[str]]],
    conversations: dict[str, list[list[tuple[str, str]]]],
) -> Path:
    """A corpus folder: texts by split and source, (question, answer) turns by split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, sources in documents.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for source, texts in sources.items():
            table = pa.table(
                {
                    "id": [f"{split}/{source}/{number}" for number in range(len(texts))],
                    "source": [source] * len(texts),
                    "text": texts,
                    "meta": ["{}"] * len(texts),
                }
            )
            pq.write_table(table, folder / split / f"{source}.parquet")
    (folder / "conversations").mkdir(parents=True, exist_ok=True)
    for split, chats in conversations.items():
        lines = []
        for turns in chats:
            messages = []
            for question, answer in turns:
                messages.append({"role": "user", "content": question})
                messages.append({"role": "assistant", "content": answer})
            lines.append(json.dumps({"messages": messages, "meta": {}}) + "\n")
        (folder / "conversations" / f"{split}.jsonl").write_text("".join(lines))
    (folder / "report.json").write_text("{}")
    return folder


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[..., Path]:
    return lambda documents, conversations: write_corpus(
        tmp_path / "corpus", documents, conversations
    )
