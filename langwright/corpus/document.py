"""The document: one piece of text that is trained on as a whole, and where it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Document:
    """A text with its provenance.

    Attributes:
        text: the text, valid Unicode (it can be written as UTF-8).
        id: unique within a corpus; names the file and, in a file of records, the line.
        source: the corpus source it belongs to (``"python-docs"``, ``"my-folder"``); sources are
            mixed by weight later.
        meta: plain JSON values: file, line, module, object, kind, or ``messages`` of a chat.
    """

    text: str
    id: str
    source: str
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Length of the text in UTF-8 bytes."""
        return len(self.text.encode("utf-8"))


def content_key(document: Document) -> bytes:
    """16 bytes that are equal for documents of the same content.

    White space is normalised first. A heading that the corpus itself put above the text
    (``meta["heading"]``, the signature above a docstring) is no content: the docstring of two
    functions may be the same.
    """
    text = document.text
    heading = document.meta.get("heading")
    if isinstance(heading, str) and heading and text.startswith(heading):
        text = text[len(heading) :]
    normal = " ".join(text.split())
    return hashlib.blake2b(normal.encode("utf-8"), digest_size=16).digest()
