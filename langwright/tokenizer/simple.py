"""Tokenizers one can do by hand: a character or a word is a token."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np

from langwright.base import UserError
from langwright.tokenizer.base import Tokenizer
from langwright.tokenizer.hf_json import added_tokens, split
from langwright.tokenizer.special import UNKNOWN, Specials, repair
from langwright.tokenizer.splitters import Splitter, split_words

Unknown = Literal["error", "unk"]

OWN_FORMAT = 1  # of the files that only Langwright reads
ONE_CHARACTER = r"[\s\S]"


class UnknownTokenError(UserError, KeyError):
    """A character or word that the vocabulary lacks (a `KeyError`, as looking it up gives)."""

    def __str__(self) -> str:
        return self.render()


class TableTokenizer(Tokenizer):
    """A sorted table of strings, numbered from 0, and the special tokens after them.

    Args:
        tokens: the strings; their place is their id.
        special_tokens: numbered after the strings.
        unknown: what to do with a string that is not in the table: raise `UnknownTokenError`, or
            give ``<|unk|>``, which then comes after all other special tokens.
    """

    noun: ClassVar[str]

    def __init__(
        self,
        tokens: Sequence[str],
        special_tokens: Collection[str] = (),
        *,
        unknown: Unknown = "error",
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        names = [name for name in special_tokens if name != UNKNOWN]
        names += [UNKNOWN] if unknown == "unk" else []
        specials = Specials.numbered(
            names,
            len(tokens),
            bos=bos,
            eos=eos,
            pad=pad,
            unknown=UNKNOWN if names[-1:] == [UNKNOWN] else None,
        )
        super().__init__(len(tokens) + len(names), specials, chat_template)
        self.tokens = list(tokens)
        self.unknown: Unknown = unknown
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        if len(self.ids) != len(self.tokens) or "" in self.ids:
            raise UserError(f"a {self.noun} is listed twice in the vocabulary, or is empty")
        self._texts = self.tokens + names

    @property
    def unknown_id(self) -> int | None:
        """Id of ``<|unk|>``, if there is one."""
        return self.specials.id_of(self.specials.unknown)

    @abstractmethod
    def cut(self, text: str) -> Sequence[str]:
        """The strings of `text` that are looked up."""

    def encode_ordinary(self, text: str) -> list[int]:
        unknown = self.unknown_id
        if unknown is not None:
            return [self.ids.get(piece, unknown) for piece in self.cut(text)]
        try:
            return [self.ids[piece] for piece in self.cut(text)]
        except KeyError as error:
            raise self.unknown_error(error.args[0]) from None

    def unknown_error(self, piece: str) -> UnknownTokenError:
        """What to raise for a string that the table lacks."""
        return UnknownTokenError(
            f"this {self.noun} is not in the vocabulary",
            found=repr(piece),
            expected=f"one of its {len(self.tokens)} {self.noun}s",
            fix='train the tokenizer with unknown="unk", or on text that holds it',
        )

    def token_bytes(self, token_id: int) -> bytes:
        self.check_id(token_id)
        return self._texts[token_id].encode("utf-8")


class CharTokenizer(TableTokenizer):
    """Each character (Unicode code point) is a token."""

    kind: str = "char"
    noun: ClassVar[str] = "character"

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        special_tokens: Collection[str] = (),
        *,
        unknown: Unknown = "error",
        **parts: str | None,
    ) -> CharTokenizer:
        """The characters of `texts`, sorted."""
        found: set[str] = set()
        for text in texts:
            found.update(repair(text))
        return cls(sorted(found), special_tokens, unknown=unknown, **parts)

    def cut(self, text: str) -> Sequence[str]:
        return text

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [self._encode_array(repair(text)) for text in texts]

    @cached_property
    def _table(self) -> np.ndarray:
        """Code point to id, -1 where there is none; its last entry stands for all larger ones."""
        last = max(map(ord, self.tokens), default=0)
        table = np.full(last + 2, -1, dtype=np.int64)
        table[[ord(token) for token in self.tokens]] = np.arange(len(self.tokens))
        return table

    def _encode_array(self, text: str) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        ids = self._table[np.minimum(points, len(self._table) - 1)]
        lacking = ids < 0
        if lacking.any():
            if self.unknown_id is None:
                raise self.unknown_error(text[int(lacking.argmax())])
            ids[lacking] = self.unknown_id
        return ids.astype(np.uint32)

    def to_json(self) -> dict[str, Any]:
        """The format of Hugging Face expresses this kind exactly.

        The special tokens stand in the vocabulary too (no text reaches them there, being cut into
        characters), since the library numbers those that do not by its own count.
        """
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added_tokens(self.special_tokens),
            "normalizer": None,
            "pre_tokenizer": split(ONE_CHARACTER),
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {
                "type": "WordLevel",
                "vocab": {**self.ids, **self.special_tokens},
                "unk_token": UNKNOWN,
            },
        }


class WordTokenizer(TableTokenizer):
    """Each word is a token, as are punctuation marks; see `splitters` for where words end.

    Without blanks (``keep_whitespace=False``) decoding joins words with single spaces and takes
    away the space before punctuation: the words come back, the exact text does not.
    """

    kind: str = "word"
    noun: ClassVar[str] = "word"
    joins_bytes: ClassVar[bool] = False

    def __init__(
        self,
        tokens: Sequence[str],
        special_tokens: Collection[str] = (),
        *,
        splitter: Splitter = "full",
        keep_whitespace: bool = False,
        unknown: Unknown = "error",
        **parts: str | None,
    ) -> None:
        super().__init__(tokens, special_tokens, unknown=unknown, **parts)
        self.splitter: Splitter = splitter
        self.keep_whitespace = keep_whitespace

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        special_tokens: Collection[str] = (),
        *,
        splitter: Splitter = "full",
        keep_whitespace: bool = False,
        unknown: Unknown = "error",
        size: int | None = None,
        **parts: str | None,
    ) -> WordTokenizer:
        """The different words of `texts`, sorted; with `size`, only the most frequent."""
        from collections import Counter

        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(split_words(repair(text), splitter, keep_whitespace=keep_whitespace))
        words = sorted(counts)
        if size is not None and len(words) > size:
            if unknown != "unk":
                raise UserError(
                    "the text has more different words than the vocabulary may hold",
                    found=len(words),
                    expected=f"at most {size}",
                    fix='raise vocab_size, or use unknown="unk"',
                )
            words = sorted(sorted(words, key=lambda word: -counts[word])[:size])
        return cls(
            words,
            special_tokens,
            splitter=splitter,
            keep_whitespace=keep_whitespace,
            unknown=unknown,
            **parts,
        )

    def cut(self, text: str) -> Sequence[str]:
        return split_words(text, self.splitter, keep_whitespace=self.keep_whitespace)

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False) -> bytes:
        return self.decode(ids, skip_special=skip_special).encode("utf-8")

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        words = []
        for one in map(int, ids):
            self.check_id(one)
            if not (skip_special and one in self._special_ids):
                words.append(self._texts[one])
        if self.keep_whitespace:
            return "".join(words)
        return re.sub(r"""\s+([,.?!"()'])""", r"\1", " ".join(words))

    def to_json(self) -> dict[str, Any]:
        """Our own format: that of Hugging Face has no way to write how words are joined again."""
        return {
            "langwright": OWN_FORMAT,
            "kind": self.kind,
            "splitter": self.splitter,
            "keep_whitespace": self.keep_whitespace,
            "unknown": self.unknown,
            "special_tokens": [name for name in self.special_tokens if name != UNKNOWN],
            "words": self.tokens,
        }
