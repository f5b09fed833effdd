"""How much of the held-out text stands word for word in the training text.

A line of 40 or more characters counts as leaked when the same line stands anywhere in training
text. Held-out lines are remembered, training text only passes by: memory grows with what is
held out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from langwright.corpus.lines import long_lines

_MOST = 64_000_000  # characters of held-out text that are checked


@dataclass
class LeakCheck:
    """Remember held-out lines, then see which of them training text repeats."""

    _held: set[int] = field(default_factory=set)
    _found: set[int] = field(default_factory=set)
    _characters: int = 0

    def hold_out(self, text: str) -> None:
        """Remember the long lines of a held-out text."""
        if self._characters < _MOST:
            self._characters += len(text)
            self._held.update(map(hash, long_lines(text)))

    def see_training(self, text: str) -> None:
        """Look for remembered lines in a text that is trained on."""
        for line in long_lines(text):
            value = hash(line)
            if value in self._held:
                self._found.add(value)

    def remember(self, text: str) -> None:
        """Count the long lines of this text as seen from now on."""
        if self._characters < _MOST:
            self._characters += len(text)
            self._found.update(map(hash, long_lines(text)))

    def leaked(self, text: str) -> tuple[int, int]:
        """Characters of a held-out text in leaked lines, and in all its long lines."""
        leaked = every = 0
        for line in long_lines(text):
            every += len(line)
            leaked += len(line) * (hash(line) in self._found)
        return leaked, every
