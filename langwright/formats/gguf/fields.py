"""The metadata of a GGUF file as typed fields; every complaint names the file and the key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from langwright.base import UserError

ARCHITECTURE = "general.architecture"


class Fields:
    """What a file says of its architecture.

    Args:
        metadata: of the file; the keys of the architecture begin with its name and a dot.
        shapes: of the tensors, by name.
        vector: gives the numbers of a one-dimensional tensor (rotary factors).
        where: the file, for messages.
    """

    def __init__(
        self,
        metadata: Mapping[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        vector: Callable[[str], list[float]],
        where: object = None,
    ) -> None:
        self.metadata, self.shapes, self.where = metadata, shapes, where
        self.vector = vector
        self.architecture = self._string(ARCHITECTURE)

    def has(self, key: str) -> bool:
        """Whether the architecture's `key` is there."""
        return f"{self.architecture}.{key}" in self.metadata

    def value(self, key: str) -> Any:
        """The architecture's `key` as it is; a missing one is a `UserError`."""
        name = f"{self.architecture}.{key}"
        if name not in self.metadata:
            raise UserError("the file lacks a field", where=self.where, expected=name)
        return self.metadata[name]

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number. One for each layer is taken if all are the same."""
        if default is not None and not self.has(key):
            return default
        value = self.value(key)
        if isinstance(value, np.ndarray) and value.size and (value == value[0]).all():
            value = value[0].item()
        if type(value) is not int or value < 0:
            raise self.wrong(key, value, "one whole number for all layers")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number."""
        if default is not None and not self.has(key):
            return default
        value = self.value(key)
        if type(value) not in (int, float) or not np.isfinite(value):
            raise self.wrong(key, value, "a number")
        return float(value)

    def optional(self, key: str) -> float | None:
        """A finite number, or None where it is missing or 0."""
        return self.number(key, 0.0) or None

    def text(self, key: str, default: str) -> str:
        """A string."""
        value = self.value(key) if self.has(key) else default
        if not isinstance(value, str):
            raise self.wrong(key, value, "a text")
        return value

    def wrong(self, key: str, value: Any, expected: object) -> UserError:
        """The error for a field that is not what we can use."""
        return UserError(
            "the file has a field that Langwright cannot use",
            where=f"{self.where or ''} {self.architecture}.{key}".strip(),
            found=repr(value)[:120],
            expected=expected,
            fix="nothing was loaded: without it the model's answers would be wrong",
        )

    def _string(self, key: str) -> str:
        value = self.metadata.get(key)
        if not isinstance(value, str):
            raise UserError("the file names no architecture", where=self.where, expected=key)
        return value
