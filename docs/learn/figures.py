"""A figure found here beside the one expected: what every script of this folder ends with.

Used by the ladder, the exercises and the readings alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

FOUR = 5.1e-5  # how far a number may lie from one that is printed with four decimals


@dataclass(frozen=True)
class Figure:
    """One figure: what this run found, what is printed, how close they must be."""

    name: str
    found: list
    printed: list
    tolerance: float = 0.0

    @property
    def matches(self) -> bool:
        """Same length, and every item equal or within the tolerance."""
        return len(self.found) == len(self.printed) and all(
            a == b or (not isinstance(a, str) and abs(a - b) <= self.tolerance)
            for a, b in zip(self.found, self.printed)
        )

    def __str__(self) -> str:
        verdict = "ok" if self.matches else f"DIFFERS, tolerance {self.tolerance:g}"
        here, expected = _row(self.found), _row(self.printed)
        if len(here) + len(expected) < 40:
            return f"{self.name}: {here}, expected {expected}  [{verdict}]"
        return f"{self.name}\n  here      {here}\n  expected  {expected}  [{verdict}]"


def _row(items: list) -> str:
    return ", ".join(f"{x:.6g}" if isinstance(x, float) else str(x) for x in items)


def close(name: str, found: object, expected: object, tolerance: float = 0.0) -> Figure:
    """A figure from numbers, strings, nested lists or tensors of one shape."""
    return Figure(name, flat(found), flat(expected), tolerance)


def same(name: str, found: Tensor, expected: Tensor, tolerance: float = 1e-6) -> Figure:
    """Two ways to the same tensor: their shapes are equal and their largest difference is 0."""
    if found.shape != expected.shape:
        return Figure(f"{name}: shape", list(found.shape), list(expected.shape))
    difference = (found.double() - expected.double()).abs().max().item()
    return Figure(f"{name}: largest difference", [difference], [0.0], tolerance)


def flat(value: object) -> list:
    """The items of nested lists, tuples and tensors in order."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [item for part in value for item in flat(part)]
    return [value]


def show(*groups: Iterable[Figure]) -> int:
    """Print every figure; 1 if one differs from what was expected, else 0: the exit status."""
    wrong = 0
    for figure in (figure for group in groups for figure in group):
        print(figure, flush=True)
        wrong += not figure.matches
    print("every figure as expected" if not wrong else f"{wrong} figures differ")
    return int(wrong > 0)
