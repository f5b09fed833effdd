"""The scripts of `docs/learn` import one another by name, as they do when run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "learn"))


@pytest.fixture
def story_and_tokenizer(shared_data: Callable[[str], Path]) -> tuple:
    """The story and GPT-2's tokenizer; the test skips where the files are not."""
    from story_fixture import read_data

    needed = ("the-verdict.txt", "gpt2-encoder.json", "gpt2-vocab.bpe")
    return read_data([shared_data(name).parent for name in needed][:1])
