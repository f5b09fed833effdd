"""Conversations a user brings: chats to learn to answer from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from langwright.base import UserError, seed_for
from langwright.corpus.config import CorpusConfig
from langwright.corpus.document import Document
from langwright.corpus.locate import find_files, source_name
from langwright.corpus.readers import read_file
from langwright.corpus.split import enough_documents, split_groups
from langwright.corpus.tally import Tally

Conversation = dict[str, Any]


def conversation_of(document: Document) -> Conversation | None:
    """The chat a document was made from; None for plain text."""
    messages = document.meta.get("messages")
    if not isinstance(messages, list):
        return None
    return {"messages": messages, "meta": {"id": document.id, "kind": "chat"}}


def read_chats(entry: str, config: CorpusConfig, tally: Tally) -> dict[str, list[Conversation]]:
    """Chats of a file, folder or glob, split like documents; equal questions stay together.

    Raises:
        UserError: there are no chats in it.
    """
    source = source_name(entry)
    only_chats = config.replace(text_field="", sources=[entry])  # no field is a plain text
    found: list[Conversation] = []
    for file in find_files(entry, only_chats, tally):
        if file.kind in ("text", "html"):
            tally.skip("not a file of chats", file.label)
            continue
        for document in read_file(file, source, only_chats, tally):
            conversation = conversation_of(document)
            if conversation is None:
                tally.skip("no chat", document.id)
            else:
                found.append(conversation)
    if not found:
        raise UserError(
            "no conversations found",
            where=entry,
            found=tally.describe() or "no files",
            expected="records with messages, prompt and completion, or instruction and output",
        )
    return split_chats(found, config)


def split_chats(
    found: Iterable[Conversation], config: CorpusConfig
) -> dict[str, list[Conversation]]:
    """Chats by split. Chats that begin with the same question go to the same one."""
    chats = list(found)
    shares = {"valid": config.valid_share, "test": config.test_share}
    sizes: dict[str, dict[str, int]] = {}
    for chat in chats:
        strata = sizes.setdefault(_question(chat), {"chats": 0})
        strata["chats"] += 1
    if enough_documents(len(sizes), shares) or config.split == "documents":
        chosen = split_groups(sizes, shares, config.seed)
    else:  # too few to hold out any
        chosen = dict.fromkeys(sizes, "train")
    out: dict[str, list[Conversation]] = {"train": [], "valid": [], "test": []}
    seen: set[str] = set()
    for chat in chats:
        whole = repr(chat["messages"])
        if config.deduplicate and whole in seen:
            continue
        seen.add(whole)
        out[chosen[_question(chat)]].append(chat)
    return out


def take(chats: list[Conversation], most: int, seed: int) -> list[Conversation]:
    """At most `most` chats, drawn by the seed, in their order."""
    if len(chats) <= most:
        return chats
    order = sorted(
        range(len(chats)), key=lambda i: seed_for(seed, "chat", chats[i]["meta"]["id"], i)
    )
    return [chats[i] for i in sorted(order[:most])]


def _question(chat: Conversation) -> str:
    """The first thing the user says, white space normalised."""
    for message in chat["messages"]:
        if message["role"] == "user":
            return " ".join(message["content"].split())
    return ""
