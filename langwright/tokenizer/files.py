"""Tokenizers on disk: ``tokenizer.json`` and ``tokenizer_config.json``.

What is read is data from strangers: sizes are bounded, every mistake is a `UserError` that names
the file, and nothing in it is run but the chat template, in Jinja's sandbox.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langwright.base import UserError, read_untrusted, read_untrusted_json, write_json
from langwright.tokenizer.base import Tokenizer
from langwright.tokenizer.bpe import LARGEST_ID, BytePairTokenizer
from langwright.tokenizer.byte_alphabet import to_bytes
from langwright.tokenizer.hf_json import split
from langwright.tokenizer.library import LibraryTokenizer
from langwright.tokenizer.patterns import GPT2
from langwright.tokenizer.simple import (
    ONE_CHARACTER,
    OWN_FORMAT,
    CharTokenizer,
    TableTokenizer,
    WordTokenizer,
)
from langwright.tokenizer.special import END_OF_TEXT, PAD, UNKNOWN, Specials
from langwright.tokenizer.splitters import SPLITTERS

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"

LARGEST_FILE = 64 * 2**20  # bytes; the largest published vocabularies take about 35 MB
LARGEST_TEMPLATE = 2**20  # bytes
_PARTS = ("bos", "eos", "pad")
_USUAL_EOS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>", "[SEP]")


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write both files. ``transformers.AutoTokenizer`` opens all kinds but words."""
    specials = tokenizer.specials
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(number): {
                "content": name,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": True,
            }
            for name, number in specials.ids.items()
        },
    }
    for part in _PARTS:
        settings[f"{part}_token"] = getattr(specials, part)
    if specials.unknown is not None:
        settings["unk_token"] = specials.unknown
    named = {specials.bos, specials.eos, specials.pad, specials.unknown}
    settings["additional_special_tokens"] = [name for name in specials.ids if name not in named]
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    write_json(folder / TOKENIZER, tokenizer.to_json())
    write_json(folder / SETTINGS, settings)


def load_tokenizer(path: str | Path) -> Tokenizer:
    """Open a folder with a ``tokenizer.json``, or such a file itself."""
    path = Path(path)
    file = path / TOKENIZER if path.is_dir() else path
    content = _read_bounded(file)
    settings_file = file.with_name(SETTINGS)
    settings = _read_bounded(settings_file) if settings_file.exists() else {}
    template = _chat_template(settings, settings_file)
    if "langwright" in content:
        return _load_own(content, settings, template, file)
    model = content.get("model")
    if not isinstance(model, dict):
        raise UserError("not a tokenizer: it has no model", where=file)
    specials = _read_specials(content, settings, file)
    _check_vocabulary(model, file)
    if _is_character_level(content):
        return _load_characters(model, specials, template, file)
    pattern = _byte_level_pattern(content)
    if pattern is not None and model.get("type", "BPE") == "BPE":
        tokenizer = _load_byte_pairs(model, pattern, specials, template, file)
        if tokenizer is not None:
            return tokenizer
    return LibraryTokenizer(content, specials, chat_template=template, where=file)


def _read_bounded(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise UserError(
            "file not found", where=file, expected=f"a tokenizer: a folder with {TOKENIZER}"
        )
    return read_untrusted_json(file, LARGEST_FILE)


def _chat_template(settings: dict[str, Any], file: Path) -> str | None:
    """From the settings, or from the file of its own that newer programs write."""
    alone = file.with_name(TEMPLATE)
    template = settings.get("chat_template")
    if alone.exists():
        try:
            return read_untrusted(alone, LARGEST_TEMPLATE).decode("utf-8")
        except UnicodeDecodeError:
            raise UserError("the chat template is not UTF-8", where=alone) from None
    if isinstance(template, list):  # several, by name
        by_name = {
            one.get("name"): one.get("template") for one in template if isinstance(one, dict)
        }
        template = by_name.get("default")
    if template is not None and not isinstance(template, str):
        raise UserError("the chat template is not text", where=file)
    return template


def _read_specials(content: dict[str, Any], settings: dict[str, Any], file: Path) -> Specials:
    ids: dict[str, int] = {}
    entries = content.get("added_tokens") or []
    if not isinstance(entries, list):
        raise UserError("added_tokens is not a list", where=file)
    for entry in entries:
        name = entry.get("content") if isinstance(entry, dict) else None
        number: Any = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name or not _is_id(number):
            raise UserError("broken entry in added_tokens", where=file, found=repr(entry)[:120])
        if entry.get("special"):
            ids[name] = int(number)
    parts = {part: _token_name(settings.get(f"{part}_token")) for part in _PARTS}
    known = {part: name if name in ids else None for part, name in parts.items()}
    if known["eos"] is None and "eos_token" not in settings:
        known["eos"] = next((name for name in _USUAL_EOS if name in ids), None)
    if known["pad"] is None and "pad_token" not in settings:
        known["pad"] = PAD if PAD in ids else None
    model = content["model"]
    unknown = model.get("unk_token")
    unknown = unknown if isinstance(unknown, str) and unknown in ids else None
    return Specials(ids, unknown=unknown, **known)


def _token_name(value: Any) -> str | None:
    """A special token as written in the settings: its string, or a table that holds it."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST_ID


def _check_vocabulary(model: dict[str, Any], file: Path) -> None:
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        wrong = next((item for item in vocabulary.items() if not _is_id(item[1])), None)
        if wrong is not None:
            raise UserError(
                "a token's id is not a number in range",
                where=file,
                found=f"{wrong[0][:60]!r}: {wrong[1]!r}"[:160],
                expected=f"0 to {LARGEST_ID}",
            )
        if len(set(vocabulary.values())) != len(vocabulary):
            raise UserError("two tokens share one id", where=file)
    elif not isinstance(vocabulary, list):
        raise UserError("the model has no vocabulary", where=file)


def _byte_level_pattern(content: dict[str, Any]) -> str | None:
    """The split pattern if this is plain byte-level BPE, which `BytePairTokenizer` does exactly."""
    if content.get("normalizer") is not None:
        return None
    decoder = content.get("decoder")
    if not isinstance(decoder, dict) or decoder.get("type") != "ByteLevel":
        return None
    if any(not entry.get("special") for entry in content.get("added_tokens") or []):
        return None  # ordinary words added by hand are found before the merges
    if any(
        entry.get("lstrip") or entry.get("rstrip") for entry in content.get("added_tokens") or []
    ):
        return None
    splitter = content.get("pre_tokenizer")
    if not isinstance(splitter, dict):
        return None
    if splitter.get("type") == "ByteLevel":
        plain = not splitter.get("add_prefix_space") and splitter.get("use_regex", True)
        return GPT2 if plain else None
    steps = splitter.get("pretokenizers") if splitter.get("type") == "Sequence" else None
    if (
        not isinstance(steps, list)
        or len(steps) != 2
        or not all(isinstance(s, dict) for s in steps)
    ):
        return None
    first, second = steps
    pattern = first.get("pattern")
    pattern = pattern.get("Regex") if isinstance(pattern, dict) else None
    same = isinstance(pattern, str) and first == split(pattern)
    raw = second.get("type") == "ByteLevel" and second.get("use_regex") is False
    return pattern if same and raw and not second.get("add_prefix_space") else None


def _load_byte_pairs(
    model: dict[str, Any], pattern: str, specials: Specials, template: str | None, file: Path
) -> BytePairTokenizer | None:
    """The fast kind, or None where the vocabulary is not one that byte-pair training makes."""
    unusual = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if any(model.get(name) for name in unusual) or not isinstance(model.get("vocab"), dict):
        return None
    ids = model["vocab"]
    # Special tokens may stand in the vocabulary too.
    ranks = {
        to_bytes(token, where=file): number
        for token, number in ids.items()
        if specials.ids.get(token) != number
    }
    merges = model.get("merges")
    try:
        tokenizer = BytePairTokenizer(ranks, pattern, specials, chat_template=template)
    except UserError:
        return None
    if not isinstance(merges, list) or len(merges) != len(tokenizer.merges):
        return None
    for found, expected in zip(merges, tokenizer.merges):
        pair = found.split(" ") if isinstance(found, str) else found
        if not isinstance(pair, list) or [to_bytes(str(part), where=file) for part in pair] != list(
            expected
        ):
            return None
    return tokenizer


def _is_character_level(content: dict[str, Any]) -> bool:
    model = content["model"]
    return (
        model.get("type") == "WordLevel"
        and content.get("pre_tokenizer") == split(ONE_CHARACTER)
        and content.get("decoder") == {"type": "Fuse"}
        and content.get("normalizer") is None
    )


def _load_characters(
    model: dict[str, Any], specials: Specials, template: str | None, file: Path
) -> CharTokenizer:
    ordered = sorted(model["vocab"], key=model["vocab"].__getitem__)
    tokens = [token for token in ordered if token not in specials.ids]
    if any(len(token) != 1 for token in tokens):
        raise UserError("a token of a character vocabulary is longer than one", where=file)
    tokenizer = CharTokenizer(
        tokens,
        list(specials.ids),
        unknown="unk" if UNKNOWN in specials.ids else "error",
        bos=specials.bos,
        eos=specials.eos,
        pad=specials.pad,
        chat_template=template,
    )
    if tokenizer.special_tokens != dict(specials.ids) or any(
        model["vocab"][token] != number for token, number in tokenizer.ids.items()
    ):
        raise UserError("the ids of a character vocabulary are not in order", where=file)
    return tokenizer


def _load_own(
    content: dict[str, Any], settings: dict[str, Any], template: str | None, file: Path
) -> TableTokenizer:
    """The format that only we read: words."""
    if content["langwright"] != OWN_FORMAT or content.get("kind") != "word":
        raise UserError(
            "this tokenizer was written by another version",
            where=file,
            found=f"format {content['langwright']!r}, kind {content.get('kind')!r}",
            expected=f"format {OWN_FORMAT}, kind 'word'",
        )
    if content.get("splitter") not in SPLITTERS or content.get("unknown") not in ("error", "unk"):
        raise UserError("unknown splitter, or unknown way with unknown words", where=file)
    return WordTokenizer(
        _strings(content, "words", file),
        _strings(content, "special_tokens", file),
        splitter=content["splitter"],
        keep_whitespace=content.get("keep_whitespace") is True,
        unknown=content["unknown"],
        bos=_token_name(settings.get("bos_token")),
        eos=_token_name(settings.get("eos_token")),
        pad=_token_name(settings.get("pad_token")),
        chat_template=template,
    )


def _strings(content: dict[str, Any], name: str, file: Path) -> list[str]:
    value = content.get(name)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise UserError(f"{name} is not a list of strings", where=file)
    return value
