"""A person at the terminal: lines typed one after another, then the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def reader(*lines: Any) -> Any:
    rest: Iterator[Any] = iter(lines)

    def read(prompt: str) -> str:
        line = next(rest, EOFError)
        if isinstance(line, type):
            raise line
        return str(line)

    return read
