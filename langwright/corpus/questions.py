"""Question and answer pairs made from the corpus, for a first chat model.

From the Python documentation: what an object does, how it is called, where it lives. From any
other text: how it continues. Both are drawn by the seed and the document's id, never by the
order of calls, and a split's pairs come from that split's documents only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from langwright.base import seed_for
from langwright.corpus.chats import Conversation
from langwright.corpus.document import Document
from langwright.corpus.sentences import answer, first_prose

_WHAT = {
    "function": (
        "What does `{name}` do?",
        "What does the function `{name}` do?",
        "Explain `{name}`.",
        "What is `{name}` for?",
        "In Python, what does `{name}` do?",
        "Describe what `{name}` does.",
    ),
    "method": (
        "What does `{name}` do?",
        "What does the method `{name}` do?",
        "Explain `{name}`.",
        "In Python, what does `{name}` do?",
        "Describe what `{name}` does.",
    ),
    "class": (
        "What is `{name}`?",
        "What is the class `{name}`?",
        "Describe the class `{name}`.",
        "What is the class `{name}` for?",
    ),
    "module": (
        "What is the module `{name}` for?",
        "What is `{name}`?",
        "Describe the module `{name}`.",
    ),
    "property": ("What is `{name}`?", "What does `{name}` hold?"),
}
_SIGNATURE = (
    "What is the signature of `{name}`?",
    "How is `{name}` called?",
    "How do I call `{name}`?",
    "Which parameters does `{name}` take?",
)
_HOME = ("Which module does `{name}` belong to?", "In which module is `{name}`?")
_PROMPT = (150, 300)  # characters of a text that is to be continued
_CONTINUATION = (80, 300)  # characters of its continuation
_EVERY = 3000  # characters of a document for each pair made from it


def docstring_conversations(documents: Iterable[Document], seed: int) -> Iterator[Conversation]:
    """Pairs about documented objects with public names."""
    for document in documents:
        meta = document.meta
        kind = str(meta.get("kind"))
        if kind == "topic":
            yield from _topic(document)
        name = str(meta.get("object", ""))
        if kind not in _WHAT or any(_is_private(part) for part in name.split(".")):
            continue
        heading = str(meta["heading"])
        prose = first_prose(document.text[len(heading) :].lstrip("\n"))
        draw = seed_for(seed, "question", document.id)
        if prose is not None:
            question = _WHAT[kind][draw % len(_WHAT[kind])]
            yield _pair(document, question.format(name=name), answer(name, kind, prose))
        if kind in ("function", "method", "class") and draw // 16 % 3 == 0:
            yield from _signature(document, name, draw)
        home = str(meta.get("module"))
        if kind in ("function", "class") and home != "builtins" and draw // 256 % 6 == 0:
            question = _HOME[draw // 4096 % len(_HOME)].format(name=name.removeprefix(home + "."))
            reply = f"`{name.removeprefix(home + '.')}` belongs to the module `{home}`."
            yield _pair(document, question, reply)


def continuation_conversations(documents: Iterable[Document], seed: int) -> Iterator[Conversation]:
    """Pairs "Continue this text" / the text that follows."""
    for document in documents:
        text = document.text
        shortest = _PROMPT[0] + _CONTINUATION[0]
        if len(text) < shortest:
            continue
        for number in range(1 + len(text) // _EVERY):
            draw = seed_for(seed, "continue", document.id, number)
            start = _sentence_start(text, draw % (len(text) - shortest + 1))
            middle = _sentence_start(text, start + _PROMPT[0])
            if not _PROMPT[0] <= middle - start <= _PROMPT[1] * 2:
                middle = _word_start(text, start + _PROMPT[1])
            end = _sentence_end(text, middle)
            begun, rest = text[start:middle].strip(), text[middle:end].strip()
            if len(begun) >= _PROMPT[0] // 2 and len(rest) >= _CONTINUATION[0] // 2:
                yield _pair(document, f"Continue this text:\n\n{begun}", rest)


def _signature(document: Document, name: str, draw: int) -> Iterator[Conversation]:
    signature = str(document.meta["signature"])
    if signature and signature != "(...)" and "\n" not in signature:
        question = _SIGNATURE[draw // 4096 % len(_SIGNATURE)]
        reply = f"The signature is `{name}{signature}`."
        yield _pair(document, question.format(name=name), reply)


def _topic(document: Document) -> Iterator[Conversation]:
    """A help topic: its title and its first paragraph."""
    paragraphs = document.text.split("\n\n")
    title = " ".join(paragraphs[0].split("\n")[0].split()).strip('"')
    prose = next((p for p in map(first_prose, paragraphs[1:4]) if p), None)
    if prose and 2 < len(title) < 60:
        title = title.replace('"', "`")
        if title.count("`") % 2 == 0:
            yield _pair(document, f"What does the Python reference say about: {title}?", prose)


def _pair(document: Document, question: str, reply: str) -> Conversation:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": reply},
        ],
        "meta": {
            "id": document.id,
            "kind": str(document.meta.get("kind", "text")),
            "object": str(document.meta.get("object", "")),
        },
    }


def _is_private(part: str) -> bool:
    return part.startswith("_") and not (part.startswith("__") and part.endswith("__"))


def _sentence_start(text: str, at: int) -> int:
    """The first place from `at` on where a sentence or paragraph begins, within 300 characters."""
    if at == 0:
        return 0
    match = re.compile(r"(?:[.!?][\"')]*\s+|\n\s*\n)(?=\S)").search(text, at - 1, at + 300)
    return match.end() if match else _word_start(text, at)


def _word_start(text: str, at: int) -> int:
    match = re.compile(r"\s+").search(text, at, at + 100)
    return match.end() if match else min(at, len(text))


def _sentence_end(text: str, start: int) -> int:
    """Where to end a continuation: after the last sentence that fits, else at a word's end."""
    stop = min(start + _CONTINUATION[1], len(text))
    ends = [m.end() for m in re.finditer(r"[.!?][\"')]*(?=\s|$)", text[start:stop])]
    long_enough = [end for end in ends if end >= _CONTINUATION[0]]
    if long_enough:
        return start + long_enough[-1]
    space = text.rfind(" ", start, stop)
    return stop if stop == len(text) or space <= start else space
