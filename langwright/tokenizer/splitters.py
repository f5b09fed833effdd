"""Simple ways to cut a text into words, by regular expression.

Capitals stay capitals: they are information for the model.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from langwright.base import UserError

Splitter = Literal["whitespace", "comma_period", "full", "story"]

SPLITTERS: dict[str, re.Pattern[str]] = {
    # At each blank; punctuation stays glued to its word.
    "whitespace": re.compile(r"(\s)"),
    # Also at comma and full stop.
    "comma_period": re.compile(r"([,.]|\s)"),
    # At all common punctuation, the double dash and blanks.
    "full": re.compile(r"""([,.:;?_!"()']|--|\s)"""),
    # The same without : and ; (with it "The Verdict" has 1,159 kinds of words, not 1,130).
    "story": re.compile(r"""([,.?_!"()']|--|\s)"""),
}


def raw_pieces(text: str, splitter: Splitter = "full") -> list[str]:
    """Everything between and at the cuts: blanks and the empty strings between two cuts too."""
    if splitter not in SPLITTERS:
        raise UserError(
            "unknown splitter", found=splitter, expected="one of " + ", ".join(get_args(Splitter))
        )
    return SPLITTERS[splitter].split(text)


def split_words(
    text: str, splitter: Splitter = "full", *, keep_whitespace: bool = False
) -> list[str]:
    """The words of `text`.

    Args:
        splitter: where to cut.
        keep_whitespace: blanks are words too. Then the words joined are the text, which matters
            where layout has a meaning (Python code); dropping them makes texts shorter.
    """
    pieces = raw_pieces(text, splitter)
    if keep_whitespace:
        return [piece for piece in pieces if piece]
    return [piece.strip() for piece in pieces if piece.strip()]
