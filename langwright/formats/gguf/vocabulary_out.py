"""A tokenizer as the metadata of a GGUF file."""

from __future__ import annotations

from typing import Any

from langwright.base import UserError
from langwright.formats.gguf.splitting import NAMES, splitter_name
from langwright.formats.gguf.vocabulary import (
    BYTE,
    CONTROL,
    KEY,
    MARK,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER,
)
from langwright.tokenizer import Tokenizer


def write_tokenizer(tokenizer: Tokenizer | None, size: int) -> dict[str, Any]:
    """The metadata of a tokenizer for a model with `size` ids; None: ids only.

    Ids that no token has are filled with names that no text becomes. A normal form before the
    merges (Qwen's NFC) is left out, as llama.cpp has none.

    Raises:
        UserError: if llama.cpp has no such kind of vocabulary.
    """
    if tokenizer is None:
        return {f"{KEY}model": "no_vocab"}
    content = tokenizer.to_json()
    model = content.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise _refused(tokenizer, f"a {tokenizer.kind} vocabulary", "byte-pair encoding")
    if tokenizer.vocab_size > size:
        raise UserError(
            "the tokenizer has ids that the model does not",
            found=f"{tokenizer.vocab_size} ids",
            expected=f"at most vocab_size = {size}",
        )
    if tokenizer.eos_id is None:  # llama.cpp would take the token with id 11 for the end
        raise _refused(tokenizer, "no end token", "an eos token")
    tokens, types = _tables(tokenizer, content, size)
    kind = _sentence_pieces if model.get("byte_fallback") else _byte_pairs
    keys = kind(tokenizer, content, tokens, types)
    keys |= {"tokens": tokens, "token_type": types, "eos_token_id": tokenizer.eos_id}
    keys["add_bos_token"] = tokenizer.bos_id is not None
    if tokenizer.bos_id is not None:
        keys["bos_token_id"] = tokenizer.bos_id
    if tokenizer.pad_id is not None:
        keys["padding_token_id"] = tokenizer.pad_id
    metadata = {KEY + key: value for key, value in keys.items()}
    if tokenizer.chat_template is not None:
        metadata["tokenizer.chat_template"] = tokenizer.chat_template
    return metadata


def _tables(
    tokenizer: Tokenizer, content: dict[str, Any], size: int
) -> tuple[list[str], list[int]]:
    """The text and the type of each id."""
    names = {number: token for token, number in content["model"]["vocab"].items()}
    kinds = dict.fromkeys(names, NORMAL)
    for entry in content.get("added_tokens") or []:
        names[entry["id"]] = entry["content"]
        kinds[entry["id"]] = CONTROL if entry.get("special") else USER
    unknown = tokenizer.specials.id_of(tokenizer.specials.unknown)
    if unknown is not None:
        kinds[unknown] = UNKNOWN
    taken = set(names.values())
    tokens = []
    for number in range(size):
        filler = f"[UNUSED{number}]"
        while filler in taken:
            filler += "_"
        tokens.append(names.get(number, filler))
    return tokens, [kinds.get(number, UNUSED) for number in range(size)]


def _byte_pairs(
    tokenizer: Tokenizer, content: dict[str, Any], tokens: list[str], types: list[int]
) -> dict[str, Any]:
    name = splitter_name(content.get("pre_tokenizer"))
    if name is None:
        raise _refused(
            tokenizer,
            "a split pattern that llama.cpp does not know by name",
            ", ".join(dict.fromkeys(NAMES.values())),
        )
    normal = content.get("normalizer")
    if normal is not None and normal.get("type") != "NFC":
        raise _refused(tokenizer, f"the normalizer {normal.get('type')}", "none")
    return {"model": "gpt2", "pre": name, "merges": [" ".join(one) for one in _pairs(content)]}


def _sentence_pieces(
    tokenizer: Tokenizer, content: dict[str, Any], tokens: list[str], types: list[int]
) -> dict[str, Any]:
    """Scores such that the token of the first merge has the highest."""
    normal = content.get("normalizer") or {}
    steps = normal.get("normalizers", [normal])
    kinds = [step.get("type") for step in steps]
    last = steps[-1]
    spaces = last.get("content") == MARK and last.get("pattern") == {"String": " "}
    if kinds not in (["Replace"], ["Prepend", "Replace"]) or not spaces:
        raise _refused(tokenizer, "a normalizer that SentencePiece does not have", "spaces marked")
    ranks: dict[str, int] = {}
    for left, right in _pairs(content):
        ranks.setdefault(left + right, len(ranks))
    scores = [-float(ranks.get(token, len(ranks) + 1)) for token in tokens]
    for number, token in enumerate(tokens):
        if len(token) == 6 and token.startswith("<0x") and types[number] == NORMAL:
            types[number], scores[number] = BYTE, 0.0
        elif types[number] != NORMAL:
            scores[number] = 0.0
    return {
        "model": "llama",
        "pre": "default",
        "scores": scores,
        "add_space_prefix": kinds[0] == "Prepend",
    }


def _pairs(content: dict[str, Any]) -> list[list[str]]:
    """The merges, which files have as "a b" or as two texts."""
    merges = content["model"].get("merges") or []
    return [one.split(" ") if isinstance(one, str) else list(one) for one in merges]


def _refused(tokenizer: Tokenizer, found: str, expected: str) -> UserError:
    return UserError(
        "llama.cpp cannot run this tokenizer",
        where=repr(tokenizer),
        found=found,
        expected=expected,
        fix="leave the tokenizer out (None): the file then takes and gives ids",
    )
