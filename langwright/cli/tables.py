"""Names and values in columns."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any


def print_table(title: str, values: Mapping[str, Any]) -> None:
    """A title and a line for each value; nothing if there is none."""
    if not values:
        return
    print(title)
    width = min(44, max(len(name) for name in values) + 2)
    for name, value in values.items():
        print(f"  {name.replace('_', ' '):<{width}}{value}")
    print()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, the names joined by dots; None is left out."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result.update(flat(value, f"{prefix}{key}."))
        elif value is not None:
            result[prefix + key] = value
    return result


def indented(text: str) -> str:
    """Each line two spaces in."""
    return textwrap.indent(text, "  ")
