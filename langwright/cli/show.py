"""How a tokenizer cuts a text: coloured in the terminal, or as a page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from langwright.base import Section, UserError, page, table, token_strip, write_atomic
from langwright.formats import tokenizer_in
from langwright.tokenizer import Tokenizer, load_tokenizer, show_tokens


def show(arguments: argparse.Namespace) -> None:
    """``langwright tokenizer DIR --show TEXT [--html FILE]``."""
    if arguments.folder is None:
        raise UserError("which tokenizer?", fix="langwright tokenizer DIR --show TEXT")
    if arguments.show is None:
        raise UserError("which text?", fix="langwright tokenizer DIR --show TEXT --html FILE")
    tokenizer = load_tokenizer(tokenizer_in(arguments.folder))
    text = sys.stdin.read() if arguments.show == "-" else arguments.show
    shown = show_tokens(tokenizer, text)
    if arguments.html is not None:
        write_atomic(arguments.html, tokens_page(tokenizer, text, shown.ids, shown.pieces))
        print(Path(arguments.html))
        return
    from rich.console import Console

    console = Console(highlight=False)
    console.print(shown.text, soft_wrap=True)
    for one, piece in zip(shown.ids, shown.pieces):
        print(f"{one:>8}  {piece!r}")
    print(_counts(text, len(shown.ids)))


def tokens_page(tokenizer: Tokenizer, text: str, ids: list[int], pieces: list[str]) -> str:
    """The cut text and a table of its tokens as an HTML page."""
    rows = [(place, one, repr(piece)) for place, (one, piece) in enumerate(zip(ids, pieces))]
    sections = [
        Section("The text in tokens", token_strip(list(zip(pieces, ids))), _counts(text, len(ids))),
        Section("Tokens", table(["place", "id", "text"], rows, right=[0, 1])),
    ]
    return page("Tokens", sections, subtitle=f"vocabulary of {tokenizer.vocab_size:,} ids")


def _counts(text: str, tokens: int) -> str:
    size = len(text.encode("utf-8", "replace"))
    ratio = f", {size / tokens:.2f} bytes per token" if tokens else ""
    return f"{len(text):,} characters, {size:,} bytes, {tokens:,} tokens{ratio}"
