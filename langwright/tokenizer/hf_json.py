"""Parts of the ``tokenizer.json`` format of Hugging Face `tokenizers`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def added_tokens(special_tokens: Mapping[str, int]) -> list[dict[str, Any]]:
    """The entries of special tokens: found literally, nothing stripped around them."""
    return [
        {
            "id": number,
            "content": name,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for name, number in sorted(special_tokens.items(), key=lambda item: item[1])
    ]


def split(pattern: str) -> dict[str, Any]:
    """A pre-tokenizer that cuts at the matches of a regular expression and keeps them."""
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def byte_level() -> dict[str, Any]:
    """Bytes as printable characters, without the pattern that is built into this part."""
    return {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": False,
        "use_regex": False,
    }


def byte_level_splitter(pattern: str) -> dict[str, Any]:
    """Cut with `pattern`, then write bytes as characters."""
    return {"type": "Sequence", "pretokenizers": [split(pattern), byte_level()]}


def byte_level_decoder() -> dict[str, Any]:
    """The way back from characters to bytes."""
    return byte_level()
