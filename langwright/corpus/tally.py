"""Counts what was left out and why, with a few examples of each reason."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

EXAMPLES = 5  # kept for each reason


@dataclass
class _Reason:
    count: int = 0
    examples: list[str] = field(default_factory=list)


class Tally:
    """Skips by reason. Nothing is left out of a corpus without a line here."""

    def __init__(self) -> None:
        self._reasons: dict[str, _Reason] = {}
        self.notes: dict[str, Any] = {}  # facts for the report, such as the HTML extractor used

    def skip(self, reason: str, where: object, detail: str = "") -> None:
        """Count one thing left out. `where` is ``file`` or ``file:line``."""
        entry = self._reasons.setdefault(reason, _Reason())
        entry.count += 1
        if len(entry.examples) < EXAMPLES:
            text = f"{where}: {detail}" if detail else str(where)
            entry.examples.append(printable(text)[:300])

    @property
    def total(self) -> int:
        return sum(entry.count for entry in self._reasons.values())

    def count(self, reason: str) -> int:
        """How often `reason` was given."""
        entry = self._reasons.get(reason)
        return entry.count if entry else 0

    def summary(self) -> dict[str, dict[str, Any]]:
        """``{reason: {"count": n, "examples": [...]}}``, the most frequent first."""
        order = sorted(self._reasons.items(), key=lambda item: (-item[1].count, item[0]))
        return {name: {"count": e.count, "examples": list(e.examples)} for name, e in order}

    def describe(self) -> str:
        """One line for an error message; empty if nothing was left out."""
        parts = [
            f"{entry['count']} x {reason} ({entry['examples'][0]})"
            for reason, entry in self.summary().items()
        ]
        return "; ".join(parts[:4])


def printable(text: str) -> str:
    """`text` as valid Unicode: file names may hold bytes that are no UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
