"""Records (JSON objects, Parquet rows) to documents and chats.

A record is a text (its `text_field`) or a conversation in one of the shapes people already use:
``messages``; ``prompt`` and ``completion``; ``instruction``, ``input`` and ``output``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from langwright.base import UserError, nearest
from langwright.corpus.document import Document
from langwright.corpus.tally import Tally

CHAT_FIELDS = ("messages", "prompt", "completion", "instruction", "input", "output", "system")
ROLES = ("system", "user", "assistant", "tool")
_PATIENCE = 200  # records without a text after which a file is given up


class BadRecord(Exception):
    """A record that cannot be used. `reason` is what is counted, the message the detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail)
        self.reason = reason


def from_records(
    records: Iterable[Mapping[str, Any]], *, text_field: str = "text", source: str = "records"
) -> list[Document]:
    """Documents from records that are already in memory, such as rows of a data set.

    Raises:
        UserError: a record has no such field; the error names the nearest one it has.
    """
    documents = []
    for number, record in enumerate(records):
        try:
            text, meta = parse_record(record, text_field)
        except BadRecord as bad:
            message = f"{bad.reason}: {bad}" if str(bad) else bad.reason
            raise UserError(message, where=f"{source}, record {number}") from None
        documents.append(Document(text, f"{source}:{number}", source, meta))
    return documents


def parse_record(record: Any, text_field: str) -> tuple[str, dict[str, Any]]:
    """The text of a record and its meta; for a chat, meta holds ``messages``.

    Raises:
        BadRecord: with the reason to count.
    """
    if isinstance(record, str):
        return _valid_text(record), {}
    if not isinstance(record, Mapping):
        raise BadRecord("record is no object", f"found {type(record).__name__}")
    if text_field and isinstance(record.get(text_field), str):
        return _valid_text(record[text_field]), {}
    messages = chat_of(record)
    if messages is not None:
        text = "\n\n".join(message["content"] for message in messages)
        return text, {"messages": messages}
    if text_field and text_field in record:
        raise BadRecord(
            "text field is not a string", f"{text_field!r} is {type(record[text_field]).__name__}"
        )
    keys = [str(key) for key in record][:20]
    if not text_field:
        raise BadRecord("no text field", f"fields {keys}")
    guess = nearest(text_field, keys) or _longest_text(record)
    hint = f"; set text_field to {guess!r}?" if guess else ""
    raise BadRecord("no text field", f"no {text_field!r} among {keys}{hint}")


def chat_of(record: Mapping[str, Any]) -> list[dict[str, str]] | None:
    """The messages of a record in a chat shape; None if it is in none.

    Raises:
        BadRecord: it is meant as a chat, but is not well formed.
    """
    if "messages" in record:
        return _messages(record["messages"])
    if "prompt" in record and "completion" in record:
        prompt, completion = record["prompt"], record["completion"]
        start = _as_messages(prompt, "user")
        return _messages([*start, *_as_messages(completion, "assistant")])
    if "instruction" in record and "output" in record:
        extra = record.get("input")
        asked = record["instruction"]
        if isinstance(extra, str) and extra.strip() and isinstance(asked, str):
            asked = f"{asked}\n\n{extra}"
        system = record.get("system")
        start = (
            [{"role": "system", "content": system}] if isinstance(system, str) and system else []
        )
        return _messages(
            [
                *start,
                {"role": "user", "content": asked},
                {"role": "assistant", "content": record["output"]},
            ]
        )
    return None


def read_records(
    records: Iterable[tuple[str, Any]],
    *,
    source: str,
    label: str,
    text_field: str,
    named: bool,
    tally: Tally,
) -> Iterator[Document]:
    """Documents of one file of records.

    Args:
        records: pairs of a place (``"file:12"``) and a parsed record.
        label: the file's name, for errors.
        named: the user named this file: if no record of it has the text field, that is an error;
            else it is counted.
    """
    good = missing = 0
    example = ""
    for place, record in records:
        try:
            text, meta = parse_record(record, text_field)
        except BadRecord as bad:
            tally.skip(bad.reason, place, str(bad))
            if bad.reason == "no text field":
                missing += 1
                example = example or str(bad)
                if not good and missing >= _PATIENCE:
                    break
            continue
        good += 1
        yield Document(text, f"{source}/{place}", source, meta)
    if named and missing and not good:
        chat = "a chat (messages, prompt and completion, or instruction and output)"
        raise UserError(
            "no record has a text" if text_field else "no record is a chat",
            where=label,
            found=example,
            expected=f"a field {text_field!r}, or {chat}" if text_field else chat,
            fix="set corpus.text_field to the field that holds the text" if text_field else None,
        )


def _valid_text(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRecord(
            "half a surrogate pair in the text", f"at character {error.start}"
        ) from None
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.replace("\0", "")


def _as_messages(value: Any, role: str) -> list[Any]:
    """A plain string as one message of `role`; a list (already messages) as it is."""
    return value if isinstance(value, list) else [{"role": role, "content": value}]


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise BadRecord("broken chat", "messages must be a list with at least one message")
    messages = []
    for number, message in enumerate(value):
        if not isinstance(message, Mapping):
            raise BadRecord("broken chat", f"message {number} is no object")
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise BadRecord("broken chat", f"message {number}: role {role!r} is none of {ROLES}")
        if not isinstance(content, str):
            raise BadRecord("broken chat", f"message {number}: content is no string")
        messages.append({"role": str(role), "content": _valid_text(content)})
    if not any(m["role"] == "assistant" and m["content"].strip() for m in messages):
        raise BadRecord("broken chat", "no message of the assistant to learn from")
    return messages


def _longest_text(record: Mapping[str, Any]) -> str | None:
    """The field with the longest string: most likely the text."""
    lengths = {str(k): len(v) for k, v in record.items() if isinstance(v, str)}
    return max(lengths, key=lambda key: lengths[key]) if lengths else None
