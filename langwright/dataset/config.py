"""Settings of the dataset stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from langwright.base import Config

Packing = Literal["documents", "stream", "random", "windows"]


class DatasetConfig(Config):
    """How documents become token shards, and how training rows are cut from them."""

    sequence_length: int = Field(256, description="tokens in a row (T)", ge=1, le=2**24)
    packing: Packing = Field(
        "documents",
        description="documents: whole documents packed best-fit, attention within each; stream: "
        "documents joined, windows one after another; random: windows at random offsets of the "
        "joined documents; windows: windows every `stride` tokens",
    )
    stride: int | None = Field(
        None,
        description="tokens between the starts of windows (packing windows); null: "
        "sequence_length, no overlap",
        ge=1,
    )
    min_length: int | None = Field(
        None,
        description="packing random: each row counts a random length from this to "
        "sequence_length; null: always sequence_length",
        ge=1,
    )
    long_documents: Literal["cut", "truncate", "drop"] = Field(
        "cut",
        description="packing documents: cut a document longer than a row into pieces, keep only "
        "its first row, or leave it out",
    )
    shuffle: bool = Field(True, description="give each pass over the data an order of its own")
    drop_last: bool = Field(
        True,
        description="packing stream and windows: leave out a last window shorter than "
        "sequence_length; false: pad it",
    )
    weights: dict[str, float] = Field(
        {},
        description="share of the training rows per source, in any unit; 0 leaves a source out; "
        "empty: by size, so that all sources end a pass together",
    )
    eos: Literal["after", "between", "none"] = Field(
        "after",
        description="where <|endoftext|> stands: after every document, between documents, nowhere; "
        "after adds nothing if the tokenizer has no such token",
    )
    allow_special: list[str] = Field(
        [],
        description="special tokens that may appear in documents as control tokens; any other "
        "stays ordinary text",
    )
    shard_tokens: int = Field(2**27, description="token ids in one shard file", ge=1, le=2**34)
    seed: int = Field(0, description="seed of the order, where the training names none", ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> DatasetConfig:
        if self.stride is not None and self.packing != "windows":
            raise ValueError("stride is used by packing 'windows' only")
        if self.min_length is not None:
            if self.packing != "random":
                raise ValueError("min_length is used by packing 'random' only")
            if self.min_length > self.sequence_length:
                raise ValueError("min_length must not exceed sequence_length")
        if any(weight < 0 for weight in self.weights.values()):
            raise ValueError("weights must not be negative")
        if self.weights and not any(self.weights.values()):
            raise ValueError("at least one weight must be positive")
        return self
