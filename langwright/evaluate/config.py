"""Settings of the evaluation stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from langwright.base import Config


class EvaluateConfig(Config):
    """What is measured, and on how much."""

    seed: int = Field(0, ge=0, description="decides which documents and questions are taken")
    device: str = Field("auto", description="cuda, mps or cpu; auto: the first that is there")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="numbers the losses are computed in; auto = bf16 where it is fast"
    )
    headline_source: str | None = Field(
        None, description="source of the first figure; none = the corpus's first"
    )
    max_heldout_bytes: int = Field(
        200_000, ge=1, description="most text per source and split, in bytes; whole documents"
    )
    stride: int | None = Field(
        None, ge=1, description="new tokens per window of a long document; none = half the context"
    )
    together: bool = Field(
        False,
        description="read held-out documents one after another, each after those before it, as "
        "compressors do; for models trained on a stream of documents",
    )
    classics: bool = Field(True, description="measure xz, zstd and a 5-gram on the same text")
    classics_train_bytes: int = Field(
        16_000_000, ge=0, description="most training text for the classics and the copy check"
    )
    samples: int = Field(6, ge=0, description="texts begun from nothing, and as many from prompts")
    sample_tokens: int = Field(160, ge=1, description="most tokens of a sample")
    temperature: float = Field(0.8, ge=0.0, le=100.0, description="temperature of the samples")
    top_p: float = Field(0.95, ge=0.0, le=1.0, description="nucleus of the samples")
    prompts: list[str] = Field(
        default_factory=list, description="beginnings to continue; none = of held-out documents"
    )
    copy_length: int = Field(
        50,
        ge=8,
        description="a stretch of so many bytes that stands in the training text is a copy",
    )
    questions: int = Field(64, ge=0, description="most held-out questions to answer")
    questions_shown: int = Field(3, ge=0, description="answers to show in the report")
    answer_tokens: int = Field(128, ge=1, description="most tokens of an answer")
