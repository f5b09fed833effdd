"""How a text is cut before merging: llama.cpp's names, as parts of a ``tokenizer.json``.

llama.cpp keeps the split patterns in its code; a file has only a name (``tokenizer.ggml.pre``).
"""

from __future__ import annotations

from typing import Any

from langwright.tokenizer import PATTERNS

GPT2_NAME, DIGITS_NAME = "gpt-2", "smollm"
_KNOWN = {
    GPT2_NAME: ("gpt-2", "gpt2", "phi-2", "mpt", "olmo", "jina-es", "jina-de"),
    "llama-bpe": ("llama-bpe", "llama3", "llama-v3", "falcon3", "dbrx", "smaug-bpe"),
    "qwen2": ("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"),
    DIGITS_NAME: ("smollm", "starcoder", "refact", "command-r"),
}
# Every name we read -> the name we write for the same cutting.
NAMES = {name: written for written, names in _KNOWN.items() for name in names}
_PATTERNS = {GPT2_NAME: "gpt2", "llama-bpe": "gpt4", "qwen2": "qwen2"}
# With these names llama.cpp puts the beginning token before a text unless the file says otherwise.
BEGIN_BY_DEFAULT = ("llama-bpe", "llama3", "llama-v3", "falcon3", "tekken")


def splitter(name: str) -> dict[str, Any] | None:
    """The ``pre_tokenizer`` for one of llama.cpp's names, or None if we do not know it."""
    known = NAMES.get(name)
    if known is None:
        return None
    if known == DIGITS_NAME:
        steps = [{"type": "Digits", "individual_digits": True}, _byte_level(True)]
    else:
        steps = [_split(PATTERNS[_PATTERNS[known]]), _byte_level(False)]
    return {"type": "Sequence", "pretokenizers": steps}


def splitter_name(part: Any) -> str | None:
    """llama.cpp's name for a ``pre_tokenizer``, or None if it has none that we know."""
    steps = _steps(part)
    if steps == [("ByteLevel", True)]:
        return GPT2_NAME
    for name in dict.fromkeys(NAMES.values()):
        if steps == _steps(splitter(name)):
            return name
    return None


def _steps(part: Any) -> list[tuple[Any, ...]] | None:
    """What a ``pre_tokenizer`` does, without the settings that change no id."""
    if not isinstance(part, dict):
        return None
    if part.get("type") == "Sequence":
        inner = [_steps(one) for one in part.get("pretokenizers", ())]
        return None if None in inner else [step for steps in inner for step in steps or ()]
    if part.get("type") == "ByteLevel" and not part.get("add_prefix_space"):
        return [("ByteLevel", part.get("use_regex", True))]
    if part.get("type") == "Digits":
        return [("Digits", part.get("individual_digits"))]
    if part.get("type") == "Split" and isinstance(part.get("pattern"), dict):
        return [("Split", part["pattern"].get("Regex"), part.get("behavior"), part.get("invert"))]
    return None


def _split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _byte_level(cut: bool) -> dict[str, Any]:
    """Bytes as printable characters; with `cut`, after cutting by GPT-2's pattern."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": cut,
    }


BYTE_LEVEL = _byte_level(False)
