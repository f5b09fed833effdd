"""The one error a person is meant to read.

Anything that a user can cause (a bad file, a bad option, too little text) is raised as
`UserError`; the command line prints it without a traceback. Everything else is a bug of ours and
keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake the user can mend.

    Args:
        message: what is wrong, in one sentence.
        where: the file, line or field it was found in (``"recipes/my.toml:12 [pretrain] lr"``).
        found: the offending value.
        expected: what would have been right.
        fix: what to do about it.
    """

    def __init__(
        self,
        message: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        fix: str | None = None,
    ) -> None:
        self.message = message
        self.where = None if where is None else str(where)
        self.found = None if found is None else str(found)
        self.expected = None if expected is None else str(expected)
        self.fix = fix
        super().__init__(self.render())

    def render(self) -> str:
        """The whole message, a line for each part that is known."""
        lines = [f"{self.where}: {self.message}" if self.where else self.message]
        for label, value in (("found", self.found), ("expected", self.expected), ("fix", self.fix)):
            if value is not None:
                lines.append(f"  {label + ':':10}{value}")
        return "\n".join(lines)


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was probably meant to be, or None."""
    matches = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.5)
    return matches[0] if matches else None
