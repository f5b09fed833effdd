"""How well a vocabulary fits a text: fewer tokens mean a longer view and less work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from langwright.base import UserError
from langwright.tokenizer.base import Tokenizer
from langwright.tokenizer.bpe import BytePairTokenizer
from langwright.tokenizer.special import repair

_GROUP = 256  # texts encoded at once


def efficiency(
    tokenizer: Tokenizer, texts_by_kind: Mapping[str, Iterable[str]]
) -> dict[str, dict[str, Any]]:
    """Measure the vocabulary on each kind of text, and on all together (key ``"all"``).

    Of each kind: documents, bytes (UTF-8), characters, words (between blanks), tokens,
    bytes_per_token, characters_per_token, tokens_per_word, unknown_share (of tokens) and
    vocabulary_used (share of the ordinary ids that occur at all). A ratio is None without text.
    """
    if "all" in texts_by_kind:
        raise UserError('the name "all" is taken by the sum', found="a kind of text called all")
    counts = {kind: _count(tokenizer, texts) for kind, texts in texts_by_kind.items()}
    total = _Counts(tokenizer.vocab_size)
    for one in counts.values():
        total.add(one)
    return {kind: one.report(tokenizer) for kind, one in [*counts.items(), ("all", total)]}


class _Counts:
    """Sums over texts; `ids` says how often each id occurs."""

    def __init__(self, vocab_size: int) -> None:
        self.documents = self.bytes = self.characters = self.words = 0
        self.ids = np.zeros(vocab_size, dtype=np.int64)

    def add(self, other: _Counts) -> None:
        self.documents += other.documents
        self.bytes += other.bytes
        self.characters += other.characters
        self.words += other.words
        self.ids += other.ids

    def report(self, tokenizer: Tokenizer) -> dict[str, Any]:
        tokens = int(self.ids.sum())
        ordinary = np.ones(len(self.ids), dtype=bool)
        ordinary[list(tokenizer.special_tokens.values())] = False
        unknown = tokenizer.specials.id_of(tokenizer.specials.unknown)
        used = int((self.ids[ordinary] > 0).sum())
        return {
            "documents": self.documents,
            "bytes": self.bytes,
            "characters": self.characters,
            "words": self.words,
            "tokens": tokens,
            "bytes_per_token": _ratio(self.bytes, tokens),
            "characters_per_token": _ratio(self.characters, tokens),
            "tokens_per_word": _ratio(tokens, self.words),
            "unknown_share": _ratio(0 if unknown is None else int(self.ids[unknown]), tokens),
            "vocabulary_used": _ratio(used, int(ordinary.sum())),
        }


def _count(tokenizer: Tokenizer, texts: Iterable[str]) -> _Counts:
    counts = _Counts(tokenizer.vocab_size)
    for group in _groups(texts):
        counts.documents += len(group)
        counts.bytes += sum(len(text.encode("utf-8")) for text in group)
        counts.characters += sum(map(len, group))
        counts.words += sum(len(text.split()) for text in group)
        for ids in tokenizer.encode_batch(group):
            counts.ids += np.bincount(ids, minlength=len(counts.ids))
    return counts


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    for text in texts:
        group.append(repair(text))
        if len(group) == _GROUP:
            yield group
            group = []
    if group:
        yield group


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def compare_sizes(
    tokenizer: BytePairTokenizer, texts: Sequence[str], sizes: Sequence[int], width: int
) -> list[dict[str, Any]]:
    """What a smaller vocabulary would cost in tokens and save in parameters.

    A vocabulary of each size is the beginning of the trained one, so nothing is trained again.
    (The tokens of one training text get fewer with size, the embedding table gets larger; a
    language or a programming language that the text lacks gains nothing.)

    Args:
        texts: held-out text, as the model will see it.
        sizes: ids in all, special tokens included.
        width: width of the model's embedding rows.

    Returns:
        of each size: vocab_size, tokens, bytes_per_token, vocabulary_used and embedding
        (parameters of one table of vocab_size rows).
    """
    rows = []
    for size in sizes:
        found = efficiency(tokenizer.truncated(size), {"text": texts})["text"]
        kept = {name: found[name] for name in ("tokens", "bytes_per_token", "vocabulary_used")}
        rows.append({"vocab_size": size, **kept, "embedding": size * width})
    return rows
