"""What a chat template may use: work and memory, counted in one sum.

A template is a program from a stranger. A few lines of it can loop for years, or double a text
until the memory is full. So everything that it makes or walks over is charged to a budget: a unit
is about one step of Python, or one character.
"""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from types import GeneratorType
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined
from jinja2.utils import Namespace

_CONTAINER = 64  # units of a list or table itself: about its bytes, and the steps to walk over it
_LONGEST_INTEGER = 4096  # bits
_MOST_INDENT = 16
_PLAIN_PERCENT = re.compile(r"%(\([\w ]*\))?[sdr%]")


class Budget:
    """Units left."""

    def __init__(self, units: int) -> None:
        self.left = units

    def charge(self, units: int) -> None:
        """Spend; a `SecurityError` when there are no more."""
        self.left -= units
        if self.left < 0:
            raise SecurityError("it takes far too much work or memory")

    def weigh(self, value: Any, *, strict: bool = True) -> Any:
        """Charge for all that is in `value`, however deep, and return it.

        With `strict`, things that a template has no business printing or storing are refused.
        """
        if type(value) is str:
            self.charge(1 + len(value))
            return value
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, str | range):
                self.charge(1 + len(one))
            elif isinstance(one, list | tuple | KeysView | ValuesView | ItemsView):
                self.charge(_CONTAINER + len(one))
                waiting.extend(one)
            elif isinstance(one, dict):
                self.charge(_CONTAINER + 2 * len(one))
                waiting.extend(one)
                waiting.extend(one.values())
            elif one is None or isinstance(one, int | float | Undefined | GeneratorType):
                self.charge(1)
            elif strict:
                raise SecurityError(f"a template cannot use a {type(one).__name__} so")
            else:
                self.charge(1)
        return value

    def arguments(self, values: Any) -> None:
        """Charge for arguments; a namespace may be one, but not inside another thing."""
        for value in values:
            self.weigh(value, strict=not isinstance(value, Namespace))

    def each(self, values: Any, units: int) -> Iterator[Any]:
        """The same values, `units` charged for each turn of the loop."""
        for value in values:
            self.charge(units)
            yield value

    def before_operator(self, operator: str, left: Any, right: Any) -> None:
        """Refuse an operation whose result would be enormous before it is made."""
        self.arguments((left, right))
        texts = [one for one in (left, right) if isinstance(one, str | list | tuple)]
        if operator == "*" and texts:
            times = right if texts[0] is left else left
            if isinstance(times, int):
                self.charge(max(times, 0) * (1 + len(texts[0])))
        elif operator == "%" and isinstance(left, str):
            self.plain_percent(left)
        elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            grown = left.bit_length() * max(right, 1)
            bits = grown if operator == "**" else left.bit_length() + right.bit_length()
            if bits > _LONGEST_INTEGER:
                raise SecurityError("it makes an enormous number")

    def plain_percent(self, text: str) -> None:
        """Only %s, %d and %r: a width could ask for a gigabyte of blanks."""
        if "%" in _PLAIN_PERCENT.sub("", text):
            raise SecurityError("a format may hold %s, %d and %r only")

    def before_replace(self, text: Any, old: Any, new: Any) -> None:
        """Charge for the result of a replacement before it is made."""
        text, old, new = str(text), str(old), str(new)
        self.charge(len(text) + (text.count(old) if old else len(text) + 1) * (1 + len(new)))

    def before_join(self, parts: Any, between: Any) -> None:
        """Charge for the separators of a join (its parts are charged as arguments)."""
        if hasattr(parts, "__len__"):
            self.charge(len(parts) * (1 + len(str(between))))

    def before_indent(self, text: Any, width: Any) -> None:
        """Charge for the blanks before each line."""
        size = len(width) if isinstance(width, str) else width
        if not isinstance(size, int) or size > 4 * _MOST_INDENT:
            raise SecurityError("it indents too far")
        self.charge((str(text).count("\n") + 1) * size)

    def small(self, value: Any, most: int = _MOST_INDENT) -> None:
        """Refuse a number that must be small (an indent, a precision)."""
        if value is not None and (not isinstance(value, int) or abs(value) > most):
            raise SecurityError(f"a number is out of range: {str(value)[:40]}")
