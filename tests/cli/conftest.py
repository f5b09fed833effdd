"""Fixtures of the command-line tests: the tiny run of the recipe tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipe"))

from recipe_small import finished_run

__all__ = ["finished_run"]
