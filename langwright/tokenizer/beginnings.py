"""Vocabularies that mark the beginning of a text.

SentencePiece puts a ▁ (a space) before a text, so that its first word is the word that it is
elsewhere. A conversation is encoded in stretches, and only some of them begin a text: which, is
said by the rules of the ``tokenizer.json``. Here those rules are changed for the other stretches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def behind_special(content: Mapping[str, Any]) -> dict[str, Any]:
    """The rules for text behind a special token: nothing is marked that is marked only first."""
    return _changed(content, everywhere=False)


def behind_text(content: Mapping[str, Any]) -> dict[str, Any]:
    """The rules for text behind other text: nothing is marked."""
    return _changed(content, everywhere=True)


def _changed(content: Mapping[str, Any], everywhere: bool) -> dict[str, Any]:
    out = dict(content)
    out["pre_tokenizer"] = _unmarked_splitter(content.get("pre_tokenizer"), everywhere)
    if everywhere:
        out["normalizer"] = _unmarked_normalizer(content.get("normalizer"))
    return out if any(out[name] != content.get(name) for name in out) else dict(content)


def _unmarked_splitter(step: Any, everywhere: bool) -> Any:
    """A pre-tokenizer that puts no space before the text."""
    if not isinstance(step, dict):
        return step
    if step.get("type") == "Sequence" and isinstance(step.get("pretokenizers"), list):
        inner = [_unmarked_splitter(one, everywhere) for one in step["pretokenizers"]]
        return {**step, "pretokenizers": inner}
    if step.get("type") == "Metaspace":
        scheme = step.get("prepend_scheme", "always")
        if scheme == "first" or (everywhere and scheme == "always"):
            changed = {**step, "prepend_scheme": "never"}
            return changed | {"add_prefix_space": False} if "add_prefix_space" in step else changed
    if everywhere and step.get("type") == "ByteLevel" and step.get("add_prefix_space"):
        return {**step, "add_prefix_space": False}
    return step


def _unmarked_normalizer(step: Any) -> Any:
    """A normaliser that puts nothing before the text."""
    if not isinstance(step, dict):
        return step
    if step.get("type") == "Prepend":
        return None
    if step.get("type") == "Sequence" and isinstance(step.get("normalizers"), list):
        inner = [_unmarked_normalizer(one) for one in step["normalizers"]]
        return {**step, "normalizers": [one for one in inner if one is not None]}
    return step
