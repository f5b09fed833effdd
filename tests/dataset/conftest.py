"""A tokenizer of bytes, and datasets built with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from langwright.dataset import DatasetConfig, write_dataset


class ByteTokenizer:
    """Each UTF-8 byte is its id; 256 is <|endoftext|>."""

    def __init__(self, vocab_size: int = 257, eos: bool = True) -> None:
        self.vocab_size = vocab_size
        self.eos_id = 256 if eos else None
        self.bos_id: int | None = None
        self.special_tokens = {"<|endoftext|>": 256} if eos else {}

    def encode(self, text: str, *, allowed_special=()) -> list[int]:
        if "<|endoftext|>" in allowed_special:
            parts = text.split("<|endoftext|>")
            ids = [b for part in parts for b in [*part.encode(), 256]]
            return ids[:-1]
        return list(text.encode())

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        return [np.array(self.encode(text), dtype=np.int64) for text in texts]

    def decode(self, ids: list[int]) -> str:
        return bytes(i for i in ids if i < 256).decode("utf-8", errors="replace")

    def token_bytes(self, one: int) -> bytes:
        return bytes([one])


@pytest.fixture
def byte_tokenizer() -> Callable[..., ByteTokenizer]:
    return ByteTokenizer


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Builds a dataset from split -> source -> list of texts; options go to its config."""

    def make(splits, *, name="data", tokenizer=None, **options) -> Path:
        return build(tmp_path / name, splits, tokenizer or ByteTokenizer(), options)

    return make


@pytest.fixture(scope="session")
def dataset_of_each_packing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sources, two shards and more, 7 parts of one to 2 of the other; by packing."""
    folder = tmp_path_factory.mktemp("packings")
    splits = {"train": {"a": sixty_texts(), "b": sixty_texts(8)[:20]}}
    options = {"weights": {"a": 7, "b": 2}, "shard_tokens": 500}
    return {
        packing: build(folder / packing, splits, ByteTokenizer(), {"packing": packing, **options})
        for packing in ("documents", "stream", "random", "windows")
    }


@pytest.fixture
def texts() -> list[str]:
    """Sixty texts of 2 to 90 bytes, all different."""
    return sixty_texts()


def build(folder: Path, splits, tokenizer, options) -> Path:
    config = DatasetConfig(**{"sequence_length": 16, **options})
    lazy = {
        split: {source: (lambda texts=texts: texts) for source, texts in by_source.items()}
        for split, by_source in splits.items()
    }
    write_dataset(config, lazy, tokenizer, folder)
    return folder


def sixty_texts(seed: int = 7) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        f"{number}:" + "".join(rng.choice(list("abcdefgh é"), size=int(rng.integers(0, 80))))
        for number in range(60)
    ]
