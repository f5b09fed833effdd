"""The bytes of every token of a vocabulary, made once per tokenizer."""

from __future__ import annotations

import threading
from bisect import bisect_left
from weakref import WeakKeyDictionary

from langwright.base import UserError
from langwright.tokenizer import Tokenizer

_tables: WeakKeyDictionary[Tokenizer, TokenTable] = WeakKeyDictionary()
_lock = threading.Lock()


class TokenTable:
    """What each id adds to the text; special tokens add nothing.

    Only for tokenizers whose text is the bytes of its tokens one after another.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.kind in ("word", "wordpiece"):
            raise UserError(
                "this kind of tokenizer sets blanks between tokens by rule, so that what a token "
                "adds to the text is not certain: no bad_words and no constraint",
                found=tokenizer.kind,
                expected="a tokenizer of bytes or characters (bpe, char, unigram)",
                fix="use bad_ids in place of bad_words",
            )
        special = set(tokenizer.special_tokens.values())
        self.texts = [
            b"" if token in special else tokenizer.token_bytes(token)
            for token in range(tokenizer.vocab_size)
        ]
        self._order = sorted(range(len(self.texts)), key=self.texts.__getitem__)
        self._sorted = [self.texts[token] for token in self._order]

    def beginning_with(self, start: bytes) -> list[int]:
        """The tokens whose bytes begin with `start` (not empty)."""
        first = bisect_left(self._sorted, start)
        last = first
        while last < len(self._sorted) and self._sorted[last].startswith(start):
            last += 1
        return self._order[first:last]

    def containing(self, part: bytes) -> list[int]:
        """The tokens whose bytes hold `part` (not empty)."""
        return [token for token, text in enumerate(self.texts) if part in text]


def token_table(tokenizer: Tokenizer) -> TokenTable:
    """The table of a tokenizer; made at its first use, safe to call from several threads."""
    with _lock:
        table = _tables.get(tokenizer)
        if table is None:
            table = _tables[tokenizer] = TokenTable(tokenizer)
        return table
