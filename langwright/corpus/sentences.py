"""From the terse style of docstrings to sentences that answer a question."""

from __future__ import annotations

import re

_VERB_LIST = """
    abort accept acquire activate add adjust allow append apply ask assert assign attach attempt
    begin bind block build cache calculate call cancel change check clear clone close coerce collect
    combine compare compile complete compute concatenate configure connect construct consume convert
    copy count create deactivate decode decompress decorate define delay delete delegate deliver
    describe deserialize detach determine disable discard dispatch display divide do draw dump
    emit emulate enable encapsulate encode encrypt enforce ensure enter enumerate escape establish
    evaluate examine execute exit expand export expose extend extract fail feed fetch fill filter
    find finish fix flush fold force format forward generate get give group guess handle hide hold
    identify ignore implement import increment indicate initialize insert inspect install invoke
    issue iterate join keep kill launch list listen load locate lock log look lookup make manage
    map mark match merge modify move multiply normalize notify obtain open output override pack
    parse pass pause perform pop populate post prepare prepend pretty-print prevent print process
    produce prompt provide publish push put query quit quote raise read rebuild receive record
    redirect reduce refresh register reject release reload remove rename render reorganize repeat
    replace report represent request require reset resize resolve restore resume retrieve return
    reverse revert rewind rollback rotate round run save scan schedule search seek select send
    separate serialize serve set setup shift show shut shutdown signal simulate skip sleep sort
    specify split start stop store strip submit subtract suspend swap switch take tell terminate
    test toggle traverse translate trigger try truncate turn undo unescape unlock unpack unregister
    update use validate verify visit wait walk warn watch wrap write yield zero
"""
_VERBS = frozenset(_VERB_LIST.split())
_ROLE = re.compile(r":[a-z:]{2,20}:`~?\.?([^`<]{1,100})`")
_CODE = re.compile(r"``([^`]{1,200})``")
_SENTENCE_END = re.compile(
    r"(?<=[^.\s][.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.)\s+(?=[A-Z`'\"(])"
)
_FINITE = re.compile(r"\b(is|are|was|were|does|do|has|have|will|won't|can|may|must|should)\b")
_SHORTEST, _LONGEST = 15, 420  # characters of an answer's prose


def first_prose(text: str) -> str | None:
    """The first paragraph of a docstring that is prose, on one line, ended well; None for none."""
    for paragraph in text.split("\n\n")[:2]:
        prose = _prose(paragraph)
        if prose is not None:
            return prose
    return None


def answer(name: str, kind: str, prose: str) -> str:
    """A full sentence about `name` that begins with what its docstring says.

    >>> answer("os.path.join", "function", "Join two or more pathname components.")
    '`os.path.join` joins two or more pathname components.'
    """
    words = prose.split(" ")
    first = words[0].rstrip(",").lower()
    verb = _inflected(first)
    plain_start = words[0].isalpha() and (len(words[0]) == 1 or words[0][1:].islower())
    if kind in ("function", "method") and plain_start and verb is not None:
        words[0] = verb
        if len(words) > 2 and words[1] in ("and", "or") and words[2] in _VERBS:
            words[2] = third_person(words[2])
        sentence = " ".join(words).replace(" and return ", " and returns ")
        return f"`{name}` {sentence}"
    sentence = _SENTENCE_END.split(prose, maxsplit=1)[0]
    article = words[0] in ("A", "An", "The") and not _FINITE.search(sentence)
    if kind in ("class", "property", "module") and article:
        return f"`{name}` is {words[0].lower()} {' '.join(words[1:])}"
    return f"The documentation of `{name}` says: {prose}"


def third_person(verb: str) -> str:
    """``try`` to ``tries``, ``pass`` to ``passes``."""
    if verb.endswith(("s", "sh", "ch", "x", "z", "o")):
        return verb + "es"
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + "s"


def trim_to_sentence(text: str, most: int) -> str | None:
    """The whole sentences at the beginning of `text` within `most` characters; None if none fit."""
    end = 0
    for match in _SENTENCE_END.finditer(text + " A"):
        if match.start() > most:
            break
        end = match.start()
    return text[:end].rstrip() or None


def _inflected(word: str) -> str | None:
    if word in _VERBS:
        return third_person(word)
    if word.endswith("s") and any(
        third_person(word[:-n]) == word for n in (1, 2) if word[:-n] in _VERBS
    ):
        return word
    if word.endswith("ies") and word[:-3] + "y" in _VERBS:
        return word
    return None


def _prose(paragraph: str) -> str | None:
    lines = paragraph.split("\n")
    if any(line.lstrip().startswith((">>>", "- ", "* ", "+-", "==", "--")) for line in lines):
        return None
    if any("  " in line.strip().replace(".  ", ". ") for line in lines):  # columns of a table
        return None
    text = _CODE.sub(r"`\1`", _ROLE.sub(r"`\1`", " ".join(paragraph.split())))
    if len(text) < _SHORTEST or "->" in text or not (text[0].isalpha() or text[0] in "`'\""):
        return None
    if re.match(r"[\w.]+\(", text) or text[0].islower():  # its own signature, or a fragment
        return None
    if sum(c.isalpha() or c == " " for c in text) < 0.75 * len(text) or text.count("`") % 2:
        return None
    if len(text) > _LONGEST or text.endswith(":"):
        shorter = trim_to_sentence(text.rstrip(":"), _LONGEST)
        if shorter is None or len(shorter) < _SHORTEST:
            return None
        text = shorter
    text = text.rstrip(" ,;")
    return text if text.endswith((".", "!", "?")) else text + "."
