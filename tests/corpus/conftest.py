"""The real corpus of this Python's documentation, built once for all tests of the room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from langwright.corpus import CorpusConfig, build_corpus


@pytest.fixture(scope="session")
def python_corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The whole default corpus and its report (about 5 s)."""
    out = tmp_path_factory.mktemp("python-corpus")
    return out, build_corpus(CorpusConfig(), out)
