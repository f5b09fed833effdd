"""Fixtures of the command-line tests: the tiny run of the recipe tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipe"))

from recipe_small import finished_run

__all__ = ["finished_run"]


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """``chat`` and ``serve`` set the process's threads: a test's number is its own."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
