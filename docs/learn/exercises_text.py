"""Exercises of chapter 2: an unknown word in pieces (2.1), and windows of other sizes (2.2).

GPT-2's tokenizer has no unknown words: what it never saw as a whole falls into smaller pieces,
in the worst case single bytes. The loader cuts the ids into windows; length and stride decide how
many there are and how much they overlap.

    python docs/learn/exercises_text.py
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

from figures import Figure, close, show
from story_fixture import Windows, data_folders, read_data

from langwright.dataset import book_loader
from langwright.tokenizer import Tokenizer, show_tokens

WORD = "Akwirw ier"
WORD_IDS = [33901, 86, 343, 86, 220, 959]
WORD_PIECES = ["Ak", "w", "ir", "w", " ", "ier"]


def r1_unknown_word(tokenizer: Tokenizer) -> Iterator[Figure]:
    """Exercise 2.1: the ids of "Akwirw ier", each decoded by itself, and all of them together."""
    ids = tokenizer.encode(WORD)
    yield close("R1 ids", ids, WORD_IDS)
    yield close("R1 piece by piece", [tokenizer.decode([one]) for one in ids], WORD_PIECES)
    yield close("R1 and back", tokenizer.decode(ids), WORD)
    yield close("R1 as Langwright shows it", show_tokens(tokenizer, WORD).pieces, WORD_PIECES)


# (length, stride) -> the first rows of ids, and how many windows the story has.
FIRST_ROWS = {
    (2, 2): ([[40, 367], [2885, 1464], [1807, 3619], [402, 271]], 2572),
    (8, 2): (
        [
            [40, 367, 2885, 1464, 1807, 3619, 402, 271],
            [2885, 1464, 1807, 3619, 402, 271, 10899, 2138],
            [1807, 3619, 402, 271, 10899, 2138, 257, 7026],
            [402, 271, 10899, 2138, 257, 7026, 15632, 438],
        ],
        2569,
    ),
}


def r2_other_windows(story: str, tokenizer: Tokenizer) -> Iterator[Figure]:
    """Exercise 2.2: batches of 4 windows, (length, stride) = (2, 2) and (8, 2)."""
    ids = tokenizer.encode(story)
    for (length, stride), (rows, count) in FIRST_ROWS.items():
        name = f"R2 length {length}, stride {stride}"
        windows = Windows(ids, length, stride)  # the book's form
        yield close(f"{name}: first windows", [windows[i][0] for i in range(4)], rows)
        yield close(f"{name}: windows", len(windows), count)
        yield close(f"{name}: by formula", math.ceil((len(ids) - length) / stride), count)
        loader = book_loader(story, tokenizer, 4, length, stride, shuffle=False)  # the library's
        inputs, targets = next(iter(loader))  # (4, length) each
        yield close(f"{name}: the library's first batch", inputs, rows)
        yield close(f"{name}: targets are one further", targets[:, :-1], inputs[:, 1:])
        yield close(f"{name}: the library's windows", len(loader.dataset), count)  # type: ignore[arg-type]


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; 1 if one differs."""
    parser = argparse.ArgumentParser(description="Exercises 2.1 and 2.2.")
    parser.add_argument("--data", type=Path, help="folder with the story and GPT-2's vocabulary")
    story, tokenizer = read_data(data_folders(parser.parse_args(arguments).data))
    return show(r1_unknown_word(tokenizer), r2_other_windows(story, tokenizer))


if __name__ == "__main__":
    sys.exit(main())
