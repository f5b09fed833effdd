"""All documents once, in one file, before it is decided which of them goes where.

Only a short entry of each document stays in memory (about half a kilobyte), so a corpus may be
much larger than the memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from langwright.base import Progress
from langwright.corpus.config import CorpusConfig
from langwright.corpus.document import Document, content_key
from langwright.corpus.hub import hub_files
from langwright.corpus.lines import merge_groups
from langwright.corpus.locate import PYTHON_SOURCES, find_files, source_name
from langwright.corpus.python_corpus import python_documents
from langwright.corpus.readers import read_file
from langwright.corpus.store import DocumentWriter
from langwright.corpus.tally import Tally


@dataclass(frozen=True, slots=True)
class Entry:
    """What must be known of a document to give it to a split.

    Attributes:
        group: documents of one group go to the same split.
        stratum: what shares are measured in: a source, or a kind within it.
        origin: the file a piece was cut from, else the document itself.
        size: UTF-8 bytes.
        whole: it belongs to a fixed group and is never cut (Python sources, chats).
    """

    source: str
    group: str
    stratum: str
    origin: str
    size: int
    characters: int
    key: bytes
    whole: bool


def stage_documents(config: CorpusConfig, path: Path, tally: Tally) -> list[Entry]:
    """Read every source into the Parquet file `path`; returns an entry for each document."""
    entries: list[Entry] = []
    with DocumentWriter(path) as writer, Progress("corpus", unit="documents") as progress:
        for document, group in _all_documents(config, tally, path.parent):
            if len(document.text.strip()) < config.min_document_characters:
                tally.skip("too short", document.id)
                continue
            writer.write(document)
            file = document.meta.get("file") if document.meta.get("piece") else None
            if entries and file == entries[-1].origin:  # with the pieces before it
                group = entries[-1].group
                entries.append(_entry(document, group, whole=False))
            else:
                entries.append(_entry(document, group, whole=group is not None))
            progress.advance(1)
    return entries


def _entry(document: Document, group: str | None, whole: bool) -> Entry:
    key = content_key(document)
    messages = document.meta.get("messages")
    if group is None and messages:  # chats that begin alike stay together
        asked = [message["content"] for message in messages if message["role"] == "user"]
        group, whole = "chat " + " ".join(" ".join(asked[:1]).split()), True
    topic = whole and document.meta.get("kind") == "topic"
    return Entry(
        source=document.source,
        group=key.hex() if group is None else group,
        stratum=f"{document.source}/topic" if topic else document.source,
        origin=str(document.meta["file"]) if "piece" in document.meta else document.id,
        size=document.bytes,
        characters=len(document.text),
        key=key,
        whole=whole,
    )


def _all_documents(
    config: CorpusConfig, tally: Tally, out: Path
) -> Iterator[tuple[Document, str | None]]:
    """Documents of all sources in the order they are named, each with its group if it has one.

    `out` is where the corpus is made: nothing is read there.
    """
    names: set[str] = set()
    python = [entry for entry in PYTHON_SOURCES if entry in config.sources]
    if python:
        documents = python_documents(python, config.max_bytes, tally)
        joined = merge_groups((group, document.text) for document, group in documents)
        for document, group in documents:
            yield document, joined[group]
        names.update(python)
    for entry in dict.fromkeys(config.sources):
        if entry in PYTHON_SOURCES:
            continue
        name = _free_name(source_name(entry), names)
        names.add(name)
        found = _user_documents(entry, name, config, tally, out)
        for document in _limited(found, config.max_bytes):
            yield document, None


def _user_documents(
    entry: str, name: str, config: CorpusConfig, tally: Tally, out: Path
) -> Iterator[Document]:
    is_hub = entry.startswith("hf://")
    files = hub_files(entry, config) if is_hub else find_files(entry, config, tally, out)
    for file in files:
        yield from read_file(file, name, config, tally)


def _limited(documents: Iterable[Document], max_bytes: int | None) -> Iterator[Document]:
    """Documents up to `max_bytes`; the last one is cut."""
    left = max_bytes
    for document in documents:
        if left is None:
            yield document
            continue
        size = document.bytes
        if size > left:
            text = document.text.encode("utf-8")[:left].decode("utf-8", "ignore")
            if text and "messages" not in document.meta:
                yield Document(text, document.id, document.source, document.meta)
            return
        yield document
        left -= size


def _free_name(name: str, taken: set[str]) -> str:
    """`name`, or ``name-2``, ``name-3`` where it is taken by another source."""
    tries = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    lowered = {other.lower() for other in taken}  # some file systems ignore case
    return next(one for one in tries if one.lower() not in lowered)
