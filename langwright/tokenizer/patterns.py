"""Split patterns: how a text is cut into pieces before any merging.

No token ever spans two pieces. A pattern is a regular expression with Unicode classes; the names
are those by which other programs (llama.cpp's ``tokenizer.ggml.pre``) know the same pattern.
"""

from __future__ import annotations

from langwright.base import UserError

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# Contractions in any case, one leading non-letter glued to a word, digits in threes (GPT-4) or
# alone (Qwen 2), line breaks kept with the punctuation or the blanks before them.
_MODERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4 = _MODERN.replace("DIGITS", r"\p{N}{1,3}")
QWEN2 = _MODERN.replace("DIGITS", r"\p{N}")

PATTERNS: dict[str, str] = {"qwen2": QWEN2, "gpt2": GPT2, "gpt4": GPT4, "llama3": GPT4}


def pattern_name(pattern: str) -> str | None:
    """The name of a pattern, or None if it is not one of ours."""
    return next((name for name, known in PATTERNS.items() if known == pattern), None)


def named_pattern(name: str) -> str:
    """The pattern called `name`; an unknown name is a `UserError`."""
    if name not in PATTERNS:
        raise UserError("unknown split pattern", found=name, expected=", ".join(PATTERNS))
    return PATTERNS[name]
