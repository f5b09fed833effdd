"""The vocabulary in a GGUF file as a tokenizer.

It is written as a ``tokenizer.json`` and read by the one reader of those, with all its checks.
Two kinds: byte-level BPE ("gpt2", cut by a pattern that the file names) and SentencePiece BPE
("llama", whose merges are told by the scores of the tokens).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from langwright.base import UserError, write_json
from langwright.formats.gguf.splitting import BEGIN_BY_DEFAULT, BYTE_LEVEL, NAMES, splitter
from langwright.tokenizer import Tokenizer, load_tokenizer

KEY = "tokenizer.ggml."
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
LONGEST_TOKEN = 1024  # bytes
MARK = "\u2581"  # SentencePiece writes a space so


@dataclass(frozen=True)
class Vocabulary:
    """The tables of a file, checked: texts and types by id, and the ids that play a part."""

    tokens: list[str]
    types: list[int]
    bos: str | None
    eos: str | None
    pad: str | None
    special: frozenset[int]

    def ids(self) -> dict[str, int]:
        """Token to id, without those that only fill the table."""
        return {
            token: index for index, token in enumerate(self.tokens) if self.types[index] != UNUSED
        }


def read_tokenizer(metadata: Mapping[str, Any], where: object = None) -> Tokenizer | None:
    """The tokenizer that the metadata describe, None where they describe none.

    Raises:
        UserError: naming `where` and the key that is missing, broken, or of a kind we do not have.
    """
    model = metadata.get(f"{KEY}model", "no_vocab")
    if model in ("no_vocab", "none"):
        return None
    if model not in ("gpt2", "llama"):
        raise _error("this kind of vocabulary is not read", where, "model", model, "gpt2 or llama")
    vocabulary = _read_tables(metadata, model, where)
    if model == "gpt2":
        content = _byte_pairs(metadata, vocabulary, where)
    else:
        content = _sentence_pieces(metadata, vocabulary, where)
    content["added_tokens"] = _added(vocabulary)
    settings = {f"{part}_token": getattr(vocabulary, part) for part in ("bos", "eos", "pad")}
    template = metadata.get("tokenizer.chat_template")
    if template is not None:
        if not isinstance(template, str):
            raise UserError("the chat template is not text", where=where)
        settings["chat_template"] = template
    return _through_files(content, settings, where)


def _through_files(content: dict[str, Any], settings: dict[str, Any], where: object) -> Tokenizer:
    """Read a ``tokenizer.json`` and its settings from a folder made for it."""
    with tempfile.TemporaryDirectory() as folder:
        write_json(Path(folder) / "tokenizer.json", content)
        write_json(Path(folder) / "tokenizer_config.json", settings)
        try:
            return load_tokenizer(folder)
        except UserError as error:
            raise UserError(
                f"the vocabulary cannot be used: {error.message}",
                where=where,
                found=error.found,
                expected=error.expected,
            ) from None


def _read_tables(metadata: Mapping[str, Any], model: str, where: object) -> Vocabulary:
    tokens = metadata.get(f"{KEY}tokens")
    if not isinstance(tokens, list) or not tokens or not all(type(t) is str for t in tokens):
        raise _error("the vocabulary has no tokens", where, "tokens", None, "a list of texts")
    longest = max(len(token.encode()) for token in tokens)
    if longest > LONGEST_TOKEN:
        raise _error("a token is too long", where, "tokens", f"{longest} bytes", LONGEST_TOKEN)
    types = metadata.get(f"{KEY}token_type")
    if types is None:
        types = np.full(len(tokens), NORMAL)
    if not isinstance(types, np.ndarray) or len(types) != len(tokens):
        raise _error("not one type for each token", where, "token_type", None, len(tokens))
    kinds = [int(one) for one in types]
    parts = {}
    for part, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        number = metadata.get(f"{KEY}{key}_token_id")
        if number is not None and not (type(number) is int and 0 <= number < len(tokens)):
            raise _error("no such token", where, f"{key}_token_id", number, f"below {len(tokens)}")
        parts[part] = number
    default = model == "llama" or metadata.get(f"{KEY}pre") in BEGIN_BY_DEFAULT
    special = {i for i, kind in enumerate(kinds) if kind in (CONTROL, UNKNOWN)}
    special |= {number for number in parts.values() if number is not None}
    if not metadata.get(f"{KEY}add_bos_token", default):
        parts["bos"] = None
    names = {part: None if n is None else tokens[n] for part, n in parts.items()}
    for number in special:
        if kinds[number] in (UNUSED, NORMAL):
            kinds[number] = CONTROL
    vocabulary = Vocabulary(tokens, kinds, special=frozenset(special), **names)
    used = sum(kind != UNUSED for kind in kinds)
    if len(vocabulary.ids()) != used:
        raise _error("two tokens are the same text", where, "tokens", None, "different texts")
    if any(not tokens[number] for number in special):
        raise _error("a control token is empty", where, "tokens", "''", "a name")
    return vocabulary


def _added(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """The tokens that are found before anything is merged: control marks and words by hand."""
    return [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": index in vocabulary.special,
        }
        for index, token in enumerate(vocabulary.tokens)
        if token and (index in vocabulary.special or vocabulary.types[index] == USER)
    ]


def _byte_pairs(
    metadata: Mapping[str, Any], vocabulary: Vocabulary, where: object
) -> dict[str, Any]:
    """GPT-2's kind: bytes as printable characters, merges in order."""
    name = metadata.get(f"{KEY}pre", "default")
    cut = splitter(name) if isinstance(name, str) else None
    if cut is None:
        raise _error(
            "the pattern that cuts texts is not one we know", where, "pre", name, ", ".join(NAMES)
        )
    merges = metadata.get(f"{KEY}merges")
    pairs = [one.split(" ") for one in merges] if isinstance(merges, list) else None
    if pairs is None or any(len(pair) != 2 or "" in pair for pair in pairs):
        raise _error("not a list of pairs", where, "merges", None, "two texts and a space between")
    return {
        "version": "1.0",
        "normalizer": None,
        "pre_tokenizer": cut,
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": vocabulary.ids(), "merges": pairs},
    }


def _sentence_pieces(
    metadata: Mapping[str, Any], vocabulary: Vocabulary, where: object
) -> dict[str, Any]:
    """SentencePiece's kind: characters, spaces as a mark, unknown characters as bytes."""
    scores = metadata.get(f"{KEY}scores")
    if not isinstance(scores, np.ndarray) or len(scores) != len(vocabulary.tokens):
        raise _error("not one score for each token", where, "scores", None, len(vocabulary.tokens))
    if not np.isfinite(scores.astype(np.float64)).all():
        raise _error("a score is no number", where, "scores", None, "finite numbers")
    prefix = bool(metadata.get(f"{KEY}add_space_prefix", True))
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": MARK}
    steps = [{"type": "Prepend", "prepend": MARK}, spaces] if prefix else [spaces]
    back: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": MARK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    unknown = [t for t, kind in zip(vocabulary.tokens, vocabulary.types) if kind == UNKNOWN]
    return {
        "version": "1.0",
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": back},
        "model": {
            "type": "BPE",
            "unk_token": unknown[0] if unknown else None,
            "fuse_unk": True,
            "byte_fallback": BYTE in vocabulary.types,
            "vocab": vocabulary.ids(),
            "merges": merges_by_score(vocabulary, scores.tolist()),
        },
    }


def merges_by_score(vocabulary: Vocabulary, scores: list[float]) -> list[list[str]]:
    """SentencePiece joins the neighbours whose union has the highest score: as a list of merges,
    every way to cut each token in two others, those of higher score first."""
    normal = {
        token: index
        for index, token in enumerate(vocabulary.tokens)
        if vocabulary.types[index] == NORMAL
    }
    found: list[tuple[float, list[str]]] = []
    for token, index in normal.items():
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in normal and right in normal:
                found.append((-scores[index], [left, right]))
    found.sort(key=lambda item: item[0])
    return [pair for _, pair in found]


def _error(message: str, where: object, key: str, found: object, expected: object) -> UserError:
    return UserError(
        message,
        where=f"{where or ''} {KEY}{key}".strip(),
        found=None if found is None else repr(found)[:120],
        expected=expected,
    )
