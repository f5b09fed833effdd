"""Ids to text, one id at a time, in whole characters."""

from __future__ import annotations

import codecs

from langwright.tokenizer.base import Tokenizer


class StreamDecoder:
    """Give text as its ids come; the pieces joined are exactly ``tokenizer.decode`` of all ids.

    A character whose bytes are spread over several tokens comes when it is whole. Bytes that can
    never become a character come out as U+FFFD, at the latest at `finish`.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False) -> None:
        self._tokenizer = tokenizer
        self._skip = frozenset(tokenizer.special_tokens.values()) if skip_special else frozenset()
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._ids: list[int] = []  # kinds that do not join bytes: what is still needed
        self._said = 0  # how many of them have been given out

    def push(self, token_id: int) -> str:
        """The text that has become certain with this id; often a word, sometimes nothing."""
        token_id = int(token_id)
        self._tokenizer.check_id(token_id)
        if token_id in self._skip:
            return ""
        if self._tokenizer.joins_bytes:
            return self._utf8.decode(self._tokenizer.token_bytes(token_id))
        self._ids.append(token_id)
        text = self._difference()
        return "" if text.endswith("\ufffd") else self._give(text)

    def finish(self) -> str:
        """The rest: U+FFFD for bytes that never became a character. Ready for a new text."""
        text = self._difference() + self._utf8.decode(b"", final=True)
        self._ids, self._said = [], 0
        self._utf8.reset()
        return text

    def _difference(self) -> str:
        """What the ids not given out add to the text of those before them."""
        if self._said == len(self._ids):
            return ""
        before = self._tokenizer.decode(self._ids[: self._said])
        return self._tokenizer.decode(self._ids)[len(before) :]

    def _give(self, text: str) -> str:
        # The ids just given stay, as the neighbours that decide how the next ones are joined.
        self._ids = self._ids[self._said :]
        self._said = len(self._ids)
        return text
