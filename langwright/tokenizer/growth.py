"""How much longer a ``tokenizer.json`` may make a text before it is cut into tokens.

Its normalizer may replace an "a" by a thousand, and each of those by a thousand more: a few bytes
of settings that would fill any memory. Real ones replace a blank by a mark.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

from langwright.base import UserError

MOST_GROWTH = 64  # bytes out for a byte in, over all steps
MOST_STEPS = 1000
_UNICODE = {"NFD": 4, "NFKD": 18, "NFKC": 18, "NFC": 3, "Nmt": 1}


def check_growth(content: dict[str, Any], where: object) -> None:
    """Raise a `UserError` if the normalizer or decoder could make texts enormous."""
    for part in ("normalizer", "decoder"):
        growth = 1
        for step in _steps(content.get(part), part, where):
            growth *= _growth_of(step, f"{where} {part}")
            if growth > MOST_GROWTH * (18 if part == "normalizer" else 1):
                raise UserError(
                    f"its {part} could make a text enormous",
                    where=where,
                    found=f"{growth:,} bytes for one",
                    fix="no real tokenizer does this: do not use this file",
                )


def _steps(part: Any, name: str, where: object) -> list[dict[str, Any]]:
    """The steps of a part, those inside sequences too."""
    steps: list[dict[str, Any]] = []
    waiting = [part]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, dict):
            continue  # the library will say what is wrong with it
        inner = one.get(f"{name}s")
        if isinstance(inner, list):
            waiting.extend(inner)
        steps.append(one)
        if len(steps) + len(waiting) > MOST_STEPS:
            raise UserError(f"its {name} has far too many steps", where=where)
    return steps


def _growth_of(step: dict[str, Any], where: str) -> int:
    kind = step.get("type")
    if kind == "Replace":
        pattern, new = step.get("pattern"), step.get("content")
        if not isinstance(new, str):
            return 1
        size = len(new.encode("utf-8", "replace"))
        old = pattern.get("String") if isinstance(pattern, dict) else None
        if isinstance(old, str) and old:
            return max(1, -(-size // len(old.encode("utf-8", "replace"))))
        return max(1, size + 1)  # a regular expression may match nothing, everywhere
    if kind == "Precompiled":
        return _longest_entry(step.get("precompiled_charsmap"), where)
    return _UNICODE.get(str(kind), 1)


def _longest_entry(blob: Any, where: str) -> int:
    """The longest text that a character can become by SentencePiece's compiled table: the size of
    a trie (4 bytes), the trie, then the texts with a zero after each."""
    if not isinstance(blob, str):
        return 1
    try:
        data = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        raise UserError("its table of characters is no base64", where=where) from None
    trie = int.from_bytes(data[:4], "little")
    if 4 + trie > len(data):
        raise UserError("its table of characters is cut off", where=where)
    return max(1, max(len(text) for text in data[4 + trie :].split(b"\0")))
