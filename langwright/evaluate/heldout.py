"""Which text of the corpus is used to measure with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from langwright.base import UserError, nearest, seed_for
from langwright.corpus import read_documents, sources
from langwright.evaluate.classics import join_documents


@dataclass(frozen=True)
class HeldOut:
    """Held-out texts of one source and split, and how much of the split they are."""

    source: str
    split: str
    texts: list[str]
    bytes: int
    documents_in_split: int

    @property
    def whole_split(self) -> bool:
        """Whether nothing was left out."""
        return len(self.texts) == self.documents_in_split


def held_out(corpus: Path, split: str, source: str, most_bytes: int, seed: int) -> HeldOut:
    """Documents of a split, drawn by the seed until `most_bytes` is reached, in corpus order.

    A document that would pass the limit is left out, unless it is the only one. In the order of
    the corpus neighbours are alike, which gives the compressors their best chance.
    """
    documents = [
        (seed_for(seed, "held out", document.id), place, document.text)
        for place, document in enumerate(read_documents(corpus, split, source))
        if document.text
    ]
    chosen: list[tuple[int, str]] = []
    total = 0
    for _, place, text in sorted(documents):
        size = len(text.encode("utf-8", "replace"))
        if total + size <= most_bytes or not chosen:
            chosen.append((place, text))
            total += size
    texts = [text for _, text in sorted(chosen)]
    return HeldOut(source, split, texts, total, len(documents))


def choose_headline(names: list[str], asked: str | None) -> str:
    """The source of the first figure."""
    if not names:
        raise UserError(
            "the corpus has no held-out documents",
            fix="use more documents, or a larger valid share in the corpus config",
        )
    if asked is None:
        return names[0]
    if asked not in names:
        guess = nearest(asked, names)
        raise UserError(
            "no such source in the corpus",
            where="evaluate.headline_source",
            found=asked,
            expected=", ".join(names),
            fix=f"did you mean {guess!r}?" if guess else None,
        )
    return asked


def training_bytes(corpus: Path, headline: str, most_bytes: int) -> tuple[bytes, bool]:
    """Training text as the classics see it, and whether that is all of it.

    The headline source stands last (nearest to what is compressed after it) and is the last to be
    cut; of the others, what still fits comes before it.
    """
    names = [name for name in sources(corpus, "train") if name != headline]
    whole = True
    last, complete = _take(_texts(corpus, headline), most_bytes)
    whole = whole and complete
    parts = [last]
    for name in names:
        room = most_bytes - sum(map(len, parts))
        part, complete = _take(_texts(corpus, name), room)
        whole = whole and complete
        parts.insert(0, part)
    return b"".join(parts), whole


def _texts(corpus: Path, source: str) -> Iterable[str]:
    if source not in sources(corpus, "train"):
        return ()
    return (document.text for document in read_documents(corpus, "train", source))


def _take(texts: Iterable[str], room: int) -> tuple[bytes, bool]:
    """Joined texts up to `room` bytes, and whether all of them fitted."""
    parts: list[bytes] = []
    for text in texts:
        part = join_documents([text])
        if len(part) > room:
            return b"".join(parts), False
        parts.append(part)
        room -= len(part)
    return b"".join(parts), True
