"""Settings of the engine."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from langwright.base import Config

FIXED_PIECE = 128  # tokens of a prompt that are read at a time in deterministic mode


class EngineConfig(Config):
    """How the engine runs. What is "auto" or none is chosen for the machine and told by `stats`."""

    max_running: int = Field(default=32, ge=1, description="most texts that grow at a time")
    step_tokens: int = Field(
        default=512,
        ge=1,
        description="most tokens that go through the model in a step: one for each text that is "
        "being written, the rest for prompts, in pieces",
    )
    block_tokens: int = Field(
        default=16, ge=1, le=1024, description="tokens in a block of the cache"
    )
    cache_bytes: int | None = Field(
        default=None,
        ge=1,
        description="memory for keys and values; none = what max_running texts of full length "
        "need, at most half of the memory that is free",
    )
    cache_dtype: Literal["auto", "fp32", "bf16", "fp16", "int8"] = Field(
        default="auto", description="what keys and values are kept as; auto = as computed"
    )
    prefix_reuse: bool = Field(
        default=True, description="prompts that begin like an earlier text are not read again"
    )
    weights: Literal["auto", "fp32", "bf16", "int8", "int4"] = Field(
        default="auto", description="what the weights are kept as; auto = as loaded"
    )
    deterministic: bool = Field(
        default=False,
        description="the same seed gives the same text alone or in any batch, bit for bit; slower: "
        "each text goes through the model by itself",
    )
    threads: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        default=None,
        description="threads on a CPU; auto = as measured at the start, none = as torch has them",
    )
    compile: bool = Field(
        default=False,
        description="compile the decoding step, where the model allows; each new shape (rows, "
        "length) waits some 10 s for it once, what it makes is kept on disk",
    )
    cuda_graphs: bool = Field(
        default=True,
        description="on CUDA, where the model allows: record the decoding step once for each shape "
        "and replay it; each recording takes about as long as a few steps",
    )
    speculate: Literal["none", "ngram", "draft"] = Field(
        default="none",
        description="guess tokens ahead: from the text itself, or with a small model",
    )
    speculate_tokens: int = Field(default=4, ge=1, le=64, description="most guesses at a time")

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.step_tokens < self.max_running:
            raise ValueError("step_tokens must be at least max_running: one token for each text")
        if self.deterministic and (
            self.step_tokens < self.max_running + FIXED_PIECE or FIXED_PIECE % self.block_tokens
        ):
            raise ValueError(
                f"deterministic needs step_tokens of at least max_running + {FIXED_PIECE} and "
                f"block_tokens that divide {FIXED_PIECE}"
            )
        if self.deterministic and self.speculate != "none":
            raise ValueError("deterministic and speculate exclude one another")
        return self
