"""Tokenizers that Hugging Face `tokenizers` runs: WordPiece, Unigram, and any other file."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from langwright.base import UserError
from langwright.tokenizer.base import Tokenizer
from langwright.tokenizer.beginnings import behind_special, behind_text
from langwright.tokenizer.byte_alphabet import byte_characters, to_bytes
from langwright.tokenizer.encoders import as_told
from langwright.tokenizer.growth import check_growth
from langwright.tokenizer.special import Specials, repair


class LibraryTokenizer(Tokenizer):
    """Any vocabulary in the ``tokenizer.json`` format, run by the library that defines it.

    Slower than `BytePairTokenizer`; some kinds (WordPiece) do not give a text back exactly.

    Args:
        content: the content of a ``tokenizer.json``.
        specials: the special tokens in it.
        chat_template: Jinja.
    """

    kind: str = "library"
    joins_bytes: ClassVar[bool] = False

    def __init__(
        self,
        content: Mapping[str, Any],
        specials: Specials,
        *,
        chat_template: str | None = None,
        where: object = None,
    ) -> None:
        self._content = dict(content)
        self._where = where
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        if not vocabulary:
            raise UserError("the vocabulary is empty", where=where)
        super().__init__(max(vocabulary.values()) + 1, specials, chat_template)
        self.model_type: str = str(self._content.get("model", {}).get("type"))
        if self.model_type in ("Unigram", "WordPiece"):
            self.kind = self.model_type.lower()
        self._names = {number: token for token, number in vocabulary.items()}
        # A text may hold the string of a special token, which some models keep in their own
        # vocabulary. It is found here and cut after its first character.
        marks = [name for name in specials.ids if len(name) > 1 and name != specials.unknown]
        longest_first = sorted(marks, key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, longest_first))) if marks else None
        self._control = frozenset(specials.ids[name] for name in marks)

    @cached_property
    def _library(self) -> Any:
        import_tokenizers(self._where)
        import tokenizers

        check_growth(self._content, self._where)
        content = {**self._content, "truncation": None, "padding": None}
        try:
            library = tokenizers.Tokenizer.from_str(json.dumps(content))
        except BaseException as error:  # the library's own panics are no `Exception`
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise UserError(f"not a tokenizer: {error}", where=self._where) from None
        library.encode_special_tokens = True  # in a text they are ordinary text
        return library

    def encode_ordinary(self, text: str) -> list[int]:
        ids = self._ids(text)
        return ids if self._control.isdisjoint(ids) else self._encode_cut(text)

    def encode_inside(self, text: str, *, after_special: bool) -> list[int]:
        inside = self._behind_special if after_special else self._behind_text
        return inside.encode_ordinary(text)

    @cached_property
    def _behind_special(self) -> LibraryTokenizer:
        return self._changed(behind_special(self._content))

    @cached_property
    def _behind_text(self) -> LibraryTokenizer:
        return self._changed(behind_text(self._content))

    def _changed(self, content: Mapping[str, Any]) -> LibraryTokenizer:
        """The same vocabulary with other rules; itself where they are the same."""
        if content == self._content:
            return self
        return LibraryTokenizer(content, self.specials, where=self._where)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        repaired = [repair(text) for text in texts]
        try:
            done = self._library.encode_batch_fast(repaired, add_special_tokens=False)
        except BaseException as error:
            raise as_told(error, self._where) from None
        out = []
        for text, encoding in zip(repaired, done):
            ids = encoding.ids
            if not self._control.isdisjoint(ids):
                ids = self._encode_cut(text)
            out.append(np.asarray(ids, dtype=np.uint32))
        return out

    def _ids(self, text: str) -> list[int]:
        try:
            return self._library.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            raise as_told(error, self._where) from None

    def _encode_cut(self, text: str) -> list[int]:
        """Encode with a cut inside each string that looks like a special token."""
        ids: list[int] = []
        start = 0
        assert self._marks is not None
        for match in self._marks.finditer(text):
            ids += (self._behind_text if start else self)._ids(text[start : match.start() + 1])
            start = match.start() + 1
        ids += (self._behind_text if start else self)._ids(text[start:])
        if not self._control.isdisjoint(ids):
            raise UserError(
                "this vocabulary turns ordinary text into a control token",
                where=self._where,
                found=repr(text[:80]),
            )
        return ids

    def token_bytes(self, token_id: int) -> bytes:
        self.check_id(token_id)
        name = self._names.get(token_id, "")
        if token_id in self._special_ids:
            return name.encode("utf-8")
        if self._byte_level:
            return to_bytes(name) if set(name) <= _ALPHABET else name.encode("utf-8")
        if (byte := re.fullmatch(r"<0x([0-9A-F]{2})>", name)) is not None:
            return bytes([int(byte[1], 16)])
        if self.model_type == "WordPiece":
            return name.removeprefix("##").encode("utf-8")
        return name.replace("\u2581", " ").encode("utf-8")

    @cached_property
    def _byte_level(self) -> bool:
        return '"ByteLevel"' in json.dumps(self._content.get("decoder"))

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False) -> bytes:
        return self.decode(ids, skip_special=skip_special).encode("utf-8")

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        numbers = [int(one) for one in ids]
        for one in numbers:
            self.check_id(one)
        if skip_special:
            numbers = [one for one in numbers if one not in self._special_ids]
        try:
            return self._library.decode(numbers, skip_special_tokens=False)
        except BaseException as error:
            raise as_told(error, self._where) from None

    def to_json(self) -> dict[str, Any]:
        return self._content


_ALPHABET = frozenset(byte_characters())


def import_tokenizers(where: object = None) -> None:
    """Raise a `UserError` if the library is not installed."""
    try:
        import tokenizers  # noqa: F401
    except ImportError:
        raise UserError(
            "this kind of tokenizer needs the library tokenizers",
            where=where,
            fix="pip install tokenizers",
        ) from None
