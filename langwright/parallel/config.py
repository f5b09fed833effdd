"""What a person can set about training on several devices."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from langwright.base import Config


class ParallelConfig(Config):
    """How one update is shared out over the processes of a run.

    The product of all degrees is the number of processes. With the defaults every process that
    there is shards the model (FSDP); a single process does nothing special.
    """

    dp_replicate: int = Field(
        1,
        description="whole copies of the (sharded) model, each on other rows; -1: the rest",
        ge=-1,
    )
    dp_shard: int = Field(
        -1,
        description="processes that share out one copy's weights, each on other rows (FSDP); "
        "-1: the rest",
        ge=-1,
    )
    tp: int = Field(1, description="processes that share out each matrix (tensor parallel)", ge=1)
    pp: int = Field(1, description="processes that share out the layers (pipeline)", ge=1)
    cp: int = Field(1, description="processes that share out the tokens of a row (context)", ge=1)
    ep: int = Field(1, description="processes that share out the experts; part of the data's", ge=1)
    sequence_parallel: bool = Field(
        True, description="tp: between the matrices each process holds a part of the tokens"
    )
    loss_parallel: bool = Field(
        True, description="tp: embedding, head and loss are shared out over the vocabulary"
    )
    schedule: Literal["1f1b", "interleaved", "zero-bubble", "gpipe"] = Field(
        "1f1b", description="pp: in which order micro-batches go through the stages"
    )
    pipeline_microbatches: int | None = Field(
        None, description="pp: micro-batches in flight; none: twice the stages", ge=1
    )
    pipeline_chunks: int = Field(
        2, description="pp with the interleaved schedule: stages on each process", ge=1
    )
    reshard: Literal["auto", "always", "never"] = Field(
        "auto",
        description="drop a block's gathered weights after its forward pass; auto: yes, but not "
        "with a pipeline",
    )
    cp_method: Literal["allgather", "ulysses"] = Field(
        "allgather", description="cp: every process gets all keys, or all tokens of some heads"
    )
    reduce: Literal["fp32", "bf16"] = Field(
        "fp32", description="number format in which sharded gradients are added up"
    )
    accumulate: Literal["auto", "sharded", "whole"] = Field(
        "auto",
        description="sharded weights: after every micro-batch share out its gradients, or keep "
        "whole ones and share them out at the end (less traffic); auto: whole up to 2 GiB",
    )
    offload: bool = Field(False, description="sharded weights and gradients stay in host memory")

    @property
    def fixed_degrees(self) -> int:
        """Product of the degrees that are not the data's."""
        return self.tp * self.pp * self.cp
