"""Fixtures of the recipe tests."""

from recipe_small import finished_run

__all__ = ["finished_run"]
