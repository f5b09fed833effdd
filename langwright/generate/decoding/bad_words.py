"""Texts that never stand in an answer, whatever tokens they would be made of.

Banning one tokenisation of a word leaves all others ("s" + "py" for "spy"). Here the ban is on the
text: a token is rejected if the answer's last bytes and the token's together hold the word.
"""

from __future__ import annotations

from collections.abc import Sequence

from langwright.generate.decoding.token_table import token_table
from langwright.tokenizer import Tokenizer


class BadWords:
    """Says which tokens would complete a bad word.

    A word w is completed by a token that holds w, or, where the text ends with the first i bytes
    of w, by a token that begins with the others. Capitals and blanks count as they are.
    """

    def __init__(self, words: Sequence[str], tokenizer: Tokenizer) -> None:
        self._table = token_table(tokenizer)
        self._words = [word.encode("utf-8", "replace") for word in words]
        self._always = sorted({id for word in self._words for id in self._table.containing(word)})
        self._completing: dict[bytes, list[int]] = {}
        self._kept = max(map(len, self._words), default=1) - 1  # bytes of the text that matter
        self._tail = b""

    def take(self, token: int) -> None:
        """The next token of the answer."""
        if self._kept:
            self._tail = (self._tail + self._table.texts[token])[-self._kept :]

    def banned(self) -> list[int]:
        """The ids that may not come next."""
        found = list(self._always)
        for word in self._words:
            for cut in range(1, len(word)):
                if self._tail.endswith(word[:cut]):
                    found += self._rest(word[cut:])
        return found

    def _rest(self, rest: bytes) -> list[int]:
        if rest not in self._completing:
            self._completing[rest] = self._table.beginning_with(rest)
        return self._completing[rest]
