"""Settings of a tokenizer."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from langwright.base import Config
from langwright.tokenizer.simple import Unknown
from langwright.tokenizer.special import CHAT_SPECIALS, END_OF_TEXT, UNKNOWN
from langwright.tokenizer.splitters import Splitter

Kind = Literal["bpe", "char", "word", "unigram", "wordpiece", "gpt2", "pretrained"]


class TokenizerConfig(Config):
    """Which tokenizer, and what it is trained on."""

    kind: Kind = Field("bpe", description="how text is cut; bpe is byte-level and fits any text")
    vocab_size: int = Field(
        8192,
        ge=1,
        le=2**20,
        description="ids in all, special tokens included (bpe, unigram, wordpiece; most for word)",
    )
    pattern: Literal["qwen2", "gpt2", "gpt4", "llama3"] = Field(
        "qwen2", description="split pattern of bpe and unigram, by the name llama.cpp knows"
    )
    special_tokens: tuple[str, ...] | None = Field(
        None,
        description="control tokens; if not given: <|endoftext|> and, but for char and word, "
        "<|im_start|>, <|im_end|>, <|pad|>",
    )
    bos_token: str | None = Field(None, description="which special token begins a document")
    eos_token: str | None = Field(
        None, description="which special token ends a document (<|endoftext|> if not given)"
    )
    pad_token: str | None = Field(
        None, description="which special token pads (<|pad|> if not given)"
    )
    pad_to_multiple: int = Field(
        64, ge=1, le=1024, description="round vocab_size up to a multiple (bpe, unigram, wordpiece)"
    )
    training_characters: int = Field(
        100_000_000, ge=1, description="most characters of text to train on"
    )
    max_document_characters: int | None = Field(
        None, ge=1, description="use only the beginning of longer documents (no limit if not given)"
    )
    source_weights: dict[str, float] | None = Field(
        None,
        description="shares of the sources in the training text, as far as each goes; equal if "
        "not given",
    )
    evaluation_characters: int = Field(
        1_000_000, ge=1, description="characters of each validation source to measure on"
    )
    trainer: Literal["auto", "rustbpe", "python"] = Field(
        "auto", description="who learns the merges; both learn the same ones, rustbpe is faster"
    )
    splitter: Splitter = Field("full", description="where words end (kind word)")
    keep_whitespace: bool = Field(False, description="blanks are tokens too (kind word)")
    unknown: Unknown = Field(
        "unk", description="for what the vocabulary lacks: <|unk|> or an error (char, word)"
    )
    path: str | None = Field(
        None,
        description="pretrained: a tokenizer.json or its folder; gpt2: the folder of "
        "encoder.json and vocab.bpe",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind in ("gpt2", "pretrained") and not self.path:
            raise ValueError(f"kind {self.kind!r} needs a path")
        if self.kind not in ("gpt2", "pretrained") and self.path:
            raise ValueError(f"kind {self.kind!r} is trained and takes no path")
        names = self.special_names()
        if len(set(names)) != len(names) or "" in names:
            raise ValueError("special_tokens must be different and not empty")
        for part in ("bos_token", "eos_token", "pad_token"):
            if (name := getattr(self, part)) is not None and name not in names:
                raise ValueError(f"{part} {name!r} is not among special_tokens {list(names)}")
        if UNKNOWN in names:
            raise ValueError(f'{UNKNOWN} is not listed: write unknown = "unk"')
        if any(weight < 0 for weight in (self.source_weights or {}).values()):
            raise ValueError("source_weights must not be negative")
        return self

    def special_names(self) -> tuple[str, ...]:
        """The special tokens in the order of their ids."""
        if self.special_tokens is not None:
            return self.special_tokens
        return (END_OF_TEXT,) if self.kind in ("char", "word") else CHAT_SPECIALS
