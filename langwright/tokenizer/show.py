"""See how a text is cut into tokens."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langwright.tokenizer.base import Tokenizer
from langwright.tokenizer.special import Allowed

if TYPE_CHECKING:
    from rich.text import Text

# Pale backgrounds in turn, dark text on each: neighbours differ, also without seeing hue.
_COLOURS = ("#cfe8ff", "#ffe3b3", "#d5f2cf", "#f6d5e5", "#e3dcf9")
_SPECIAL = "#b9b9b9"
_MARKS = {"\n": "\u21b5\n", "\t": "\u2192\t", "\r": "\u240d"}


@dataclass(frozen=True)
class ShownTokens:
    """Tokens made visible: `text` for a terminal (rich), `html` for a page (no script)."""

    ids: list[int]
    pieces: list[str]
    text: Text
    html: str


def show_tokens(tokenizer: Tokenizer, text: str, *, allowed_special: Allowed = ()) -> ShownTokens:
    """Cut `text` and colour its tokens; the id stands in the title of each span.

    Bytes that are only a part of a character are written like ``\\xe2``; line ends get a mark.
    """
    from rich.style import Style
    from rich.text import Text

    ids = tokenizer.encode(text, allowed_special=allowed_special)
    control = frozenset(tokenizer.special_tokens.values())
    pieces = [tokenizer.token_bytes(one).decode("utf-8", "backslashreplace") for one in ids]
    shown = Text()
    spans = []
    for index, (one, piece) in enumerate(zip(ids, pieces)):
        colour = _SPECIAL if one in control else _COLOURS[index % len(_COLOURS)]
        visible = "".join(_MARKS.get(character, character) for character in piece)
        printable = "".join(
            character if character.isprintable() or character in "\n\t" else repr(character)[1:-1]
            for character in visible
        )
        shown.append(printable, Style(color="#000000", bgcolor=colour))
        spans.append(
            f'<span style="background:{colour};color:#000" title="{one}">'
            f"{html.escape(printable)}</span>"
        )
    body = "".join(spans)
    page = f'<pre style="white-space:pre-wrap;line-height:1.6">{body}</pre>'
    return ShownTokens(ids, pieces, shown, page)
