"""Fixtures of the server's tests. Without the extra `serve` they are skipped."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs the extra `serve`")
pytest.importorskip("uvicorn", reason="needs the extra `serve`")
pytest.importorskip("httpx", reason="needs httpx")
sys.path.insert(0, str(Path(__file__).resolve().parent))

from serve_small import engine, listening

from langwright.generate import Engine
from langwright.serve import ServeConfig


@pytest.fixture(scope="module")
def small_engine() -> Engine:
    """One engine for a file of tests; one server at a time."""
    return engine()


@pytest.fixture(scope="module")
def address(small_engine: Engine) -> Iterator[str]:
    """A server with default settings."""
    with listening(small_engine, ServeConfig(name="tiny")) as url:
        yield url
