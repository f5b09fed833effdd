"""Engines that turn ordinary text into byte-pair ids: same ids, different speed.

tiktoken is the fast one, Hugging Face `tokenizers` the next, plain Python (with the `regex`
library) works everywhere. The first that is installed is used; `Encoder.name` says which.

The libraries' Unicode tables differ by age: tiktoken and tokenizers agree on every character;
`regex` also knows the letters that Unicode has added since, and may cut around those differently.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from langwright.base import UserError
from langwright.tokenizer.merging import merge_piece

ENGINES = ("tiktoken", "tokenizers", "regex")
_CACHED_PIECES = 65_536

# The regular expression engine inside tiktoken gives up on blanks in a row by the hundred thousand
# (it keeps a way back for each). Such runs are cut, on every engine, so that all give equal ids.
LONGEST_BLANK = 50_000
_BLANKS = re.compile(rf"\s{{{LONGEST_BLANK}}}")


class Encoder(Protocol):
    """Ordinary text to ids."""

    name: str

    def encode(self, text: str) -> list[int]: ...

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]: ...


def make_encoder(
    ranks: Mapping[bytes, int], pattern: str, hf_json: Mapping[str, Any], name: str | None = None
) -> Encoder:
    """The fastest engine that is installed, or the one called `name`.

    Args:
        ranks: token to id; ids grow in the order of the merges.
        pattern: the split pattern.
        hf_json: the same vocabulary as the content of a ``tokenizer.json``.
    """
    if name is None:
        name = next((one for one in ENGINES if importlib.util.find_spec(one)), None)
        if name is None:
            raise UserError(
                "no library is installed that can encode text with a byte-pair vocabulary",
                expected="one of " + ", ".join(ENGINES),
                fix="pip install tiktoken",
            )
    elif name not in ENGINES:
        raise UserError("unknown encoder", found=name, expected="one of " + ", ".join(ENGINES))
    elif importlib.util.find_spec(name) is None:
        raise UserError(f"the encoder {name} is not installed", fix=f"pip install {name}")
    if name == "tiktoken":
        return TiktokenEncoder(ranks, pattern)
    if name == "tokenizers":
        return LibraryEncoder(hf_json)
    return PythonEncoder(ranks, pattern)


def stretches(text: str) -> Iterator[str]:
    """`text`, cut inside runs of blanks longer than `LONGEST_BLANK`."""
    start = 0
    if len(text) > LONGEST_BLANK:
        for match in _BLANKS.finditer(text):
            yield text[start : match.end()]
            start = match.end()
    if start < len(text) or not text:
        yield text[start:]


def as_told(error: BaseException, where: object = None) -> BaseException:
    """A library's panic as a `UserError`; any other error as it is.

    Panics (which are no `Exception`) come from a vocabulary or pattern of a stranger: a regular
    expression that goes back and forth over a text is given up after some million steps.
    """
    if type(error).__name__ != "PanicException":
        return error
    return UserError(
        f"the tokenizer gives up on this text: {str(error)[:200]}",
        where=where,
        fix="its split pattern is no good for it: use another tokenizer, or another text",
    )


class TiktokenEncoder:
    """OpenAI's tiktoken, over our own ranks."""

    name = "tiktoken"

    def __init__(self, ranks: Mapping[bytes, int], pattern: str) -> None:
        import tiktoken

        try:
            self._encoding = tiktoken.Encoding(
                "langwright", pat_str=pattern, mergeable_ranks=dict(ranks), special_tokens={}
            )
        except ValueError as error:
            raise UserError(f"the split pattern cannot be used: {error}") from None

    def encode(self, text: str) -> list[int]:
        try:
            if len(text) <= LONGEST_BLANK:
                return self._encoding.encode_ordinary(text)
            return [one for part in stretches(text) for one in self._encoding.encode_ordinary(part)]
        except BaseException as error:
            raise as_told(error) from None

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        workers = min(os.cpu_count() or 1, 16, len(texts))
        if workers <= 1:
            return [self._array(text) for text in texts]
        # tiktoken releases the interpreter while it works. A group of texts per task, since a
        # task costs about as much as a short text.
        groups = [texts[at : at + 64] for at in range(0, len(texts), 64)]
        with ThreadPoolExecutor(workers) as pool:
            done = pool.map(lambda group: [self._array(text) for text in group], groups)
            return [ids for group in done for ids in group]

    def _array(self, text: str) -> np.ndarray:
        # Faster than `encode_to_numpy`, which looks for special tokens first.
        return np.array(self.encode(text), dtype=np.uint32)


class LibraryEncoder:
    """Hugging Face `tokenizers`, over the same vocabulary without its special tokens."""

    name = "tokenizers"

    def __init__(self, hf_json: Mapping[str, Any]) -> None:
        import tokenizers

        content = {**hf_json, "added_tokens": [], "post_processor": None}
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))

    def encode(self, text: str) -> list[int]:
        try:
            return [
                one
                for part in stretches(text)
                for one in self._tokenizer.encode(part, add_special_tokens=False).ids
            ]
        except BaseException as error:
            raise as_told(error) from None

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        parts = [list(stretches(text)) for text in texts]
        whole = [part for group in parts for part in group]
        try:
            flat = self._tokenizer.encode_batch_fast(whole, add_special_tokens=False)
        except BaseException as error:
            raise as_told(error) from None
        ids = iter(flat)
        return [
            np.asarray([one for _ in group for one in next(ids).ids], dtype=np.uint32)
            for group in parts
        ]


class PythonEncoder:
    """Plain Python: nothing but the `regex` library, for its Unicode classes."""

    name = "regex"

    def __init__(self, ranks: Mapping[bytes, int], pattern: str) -> None:
        import regex

        try:
            self._finder = regex.compile(pattern)
        except regex.error as error:
            raise UserError(f"the split pattern cannot be used: {error}") from None
        self._ranks = ranks
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in stretches(text):
            for match in self._finder.finditer(part):
                ids.extend(self._piece(match.group()))
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(self.encode(text), dtype=np.uint32) for text in texts]

    def _piece(self, piece: str) -> list[int]:
        known = self._cache.get(piece)
        if known is None:
            parts = merge_piece(piece.encode("utf-8"), self._ranks)
            known = [self._ranks[part] for part in parts]
            if len(self._cache) >= _CACHED_PIECES:
                self._cache.clear()
            self._cache[piece] = known
        return known
