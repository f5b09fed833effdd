"""Training a vocabulary of any kind from a stream of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from langwright.base import Progress, UserError
from langwright.tokenizer.base import Tokenizer
from langwright.tokenizer.bpe import BytePairTokenizer, reserved
from langwright.tokenizer.config import TokenizerConfig
from langwright.tokenizer.files import load_tokenizer
from langwright.tokenizer.gpt2 import gpt2_tokenizer
from langwright.tokenizer.hf_json import added_tokens
from langwright.tokenizer.library import LibraryTokenizer
from langwright.tokenizer.merge_training import train_merges
from langwright.tokenizer.patterns import named_pattern
from langwright.tokenizer.pieces import learn_unigram, learn_wordpiece
from langwright.tokenizer.simple import CharTokenizer, WordTokenizer
from langwright.tokenizer.special import UNKNOWN, Specials, repair

PORTION = 50_000  # characters


def train_tokenizer(
    config: TokenizerConfig,
    texts: Iterable[str],
    *,
    total_characters: int | None = None,
    quiet: bool = True,
) -> Tokenizer:
    """Train (or, for the kinds ``gpt2`` and ``pretrained``, load) a tokenizer.

    The result depends on the config and the texts alone, but for kind unigram: the library that
    learns it adds numbers up in no fixed order, so the last digits of its scores vary.

    Args:
        texts: read once, as a stream.
        total_characters: how much is coming, for the progress bar.
        quiet: show no progress.
    """
    if config.kind == "pretrained":
        return load_tokenizer(str(config.path))
    if config.kind == "gpt2":
        return _published_gpt2(Path(str(config.path)))
    with Progress(
        f"train {config.kind} tokenizer", total=total_characters, unit="characters", quiet=quiet
    ) as progress:
        stream = _Stream(config, texts, progress)
        tokenizer = _train(config, iter(stream))
    if stream.characters == 0:
        raise UserError("there is no text to train the tokenizer on")
    return tokenizer


class _Stream:
    """The training text: repaired, in portions, up to the limits; counts characters."""

    def __init__(self, config: TokenizerConfig, texts: Iterable[str], progress: Progress) -> None:
        self._config, self._texts, self._progress = config, texts, progress
        self.characters = 0

    def __iter__(self) -> Iterator[str]:
        for text in self._texts:
            for portion in portions(text[: self._config.max_document_characters]):
                left = self._config.training_characters - self.characters
                if left <= 0:
                    return
                portion = repair(portion[:left])
                self.characters += len(portion)
                self._progress.advance(len(portion))
                yield portion


def portions(text: str) -> Iterator[str]:
    """`text` in portions of up to `PORTION` characters, cut before a blank where there is one.

    So memory and the regular expression engines never meet a whole book at once, and a sample
    can take a part of it.
    """
    start = 0
    while len(text) - start > PORTION:
        end = start + PORTION
        blank = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
        end = blank if blank > start else end
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _train(config: TokenizerConfig, texts: Iterator[str]) -> Tokenizer:
    names = config.special_names()
    parts = {"bos": config.bos_token, "eos": config.eos_token, "pad": config.pad_token}
    if config.kind == "char":
        return CharTokenizer.train(texts, names, unknown=config.unknown, **parts)
    if config.kind == "word":
        room = config.vocab_size - len(names) - (config.unknown == "unk")
        return WordTokenizer.train(
            texts,
            names,
            splitter=config.splitter,
            keep_whitespace=config.keep_whitespace,
            unknown=config.unknown,
            size=room,
            **parts,
        )
    size = config.vocab_size + -config.vocab_size % config.pad_to_multiple
    smallest = len(names) + (1 if config.kind == "wordpiece" else 256)
    if size < smallest:
        raise UserError(
            f"the vocabulary is too small for kind {config.kind!r}",
            where="vocab_size",
            found=size,
            expected=f"at least {smallest}",
        )
    if config.kind == "bpe":
        merges = train_merges(texts, size - smallest, named_pattern(config.pattern), config.trainer)
        return BytePairTokenizer.from_merges(
            merges, config.pattern, names, pad_to_multiple=config.pad_to_multiple, **parts
        )
    if config.kind == "unigram":
        content = learn_unigram(texts, size - len(names), named_pattern(config.pattern))
    else:
        content = learn_wordpiece(texts, size - len(names))
    return _with_specials(config, content)


def _published_gpt2(folder: Path) -> Tokenizer:
    """GPT-2's files, under the names OpenAI and Hugging Face give them."""
    for encoder, merges in (
        ("encoder.json", "vocab.bpe"),
        ("gpt2-encoder.json", "gpt2-vocab.bpe"),
        ("vocab.json", "merges.txt"),
    ):
        if (folder / encoder).exists() and (folder / merges).exists():
            return gpt2_tokenizer(folder / encoder, folder / merges)
    raise UserError(
        "GPT-2's vocabulary is not here", where=folder, expected="encoder.json and vocab.bpe"
    )


def _with_specials(config: TokenizerConfig, content: dict[str, Any]) -> LibraryTokenizer:
    """Number the special tokens after the learned ones and fill up to the multiple."""
    learned = len(content["model"]["vocab"])
    names = list(config.special_names())
    names += reserved(learned + len(names), config.pad_to_multiple)
    specials = Specials.numbered(
        names, learned, bos=config.bos_token, eos=config.eos_token, pad=config.pad_token
    )
    ids = dict(specials.ids)
    unknown = UNKNOWN if config.kind == "wordpiece" else None
    if unknown is not None:
        ids[unknown] = content["model"]["vocab"][unknown]
    content = {**content, "added_tokens": added_tokens(ids)}
    return LibraryTokenizer(
        content,
        Specials(ids, bos=specials.bos, eos=specials.eos, pad=specials.pad, unknown=unknown),
    )
