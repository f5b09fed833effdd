"""What is to be planned: one training run, reduced to what its cost depends on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from langwright.base import UserError
from langwright.model import ModelConfig
from langwright.parallel import ParallelConfig

Checkpointing = Literal["auto", "none", "selective", "full", "budget"]
Offload = Literal["none", "activations", "optimizer", "both"]
VALUE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8": 2}  # of an activation


@dataclass(frozen=True)
class Job:
    """One training run. Tokens are counted over all devices."""

    model: ModelConfig
    sequence_length: int  # T
    batch_tokens: int  # of one update
    tokens: int | None = None  # of the whole run; None: not known before it begins
    minutes: float | None = None  # the length as a time instead
    parallel: ParallelConfig = field(default_factory=lambda: ParallelConfig.parse({}))
    optimizer: str = "adamw"
    momentum: bool = True  # sgd keeps one
    galore_rank: int = 128  # of galore's moments
    offload: Offload = "none"  # what is kept in main memory (besides parallel.offload)
    precision: str = "bf16"
    micro_rows: int | None = None  # rows of one forward pass on one device; None: what fits
    lanes: int | None = None  # passes at a time on a CPU; None: at most one for each core
    chunk_tokens: int | None = None  # tokens whose logits stand at once; None: automatic
    checkpointing: Checkpointing = "auto"  # auto: the least that fits
    activation_budget: float = 0.5  # share of the activations kept by "budget"
    compiled: bool | Literal["auto"] = True

    @property
    def batch_rows(self) -> int:
        """Rows of one update, all devices together.

        Raises:
            UserError: a batch holds less than one row.
        """
        if self.batch_tokens < self.sequence_length:
            raise UserError(
                "a batch holds less than one row",
                where="pretrain.batch_tokens",
                found=self.batch_tokens,
                expected=f"at least the sequence length of {self.sequence_length}",
            )
        return self.batch_tokens // self.sequence_length

    @property
    def step_tokens(self) -> int:
        """Tokens of one update: whole rows."""
        return self.batch_rows * self.sequence_length

    @property
    def steps(self) -> int | None:
        """Updates of the whole run."""
        return None if self.tokens is None else -(-self.tokens // self.step_tokens)

    @property
    def value_bytes(self) -> int:
        """Bytes of an activation."""
        return VALUE_BYTES[self.precision]
