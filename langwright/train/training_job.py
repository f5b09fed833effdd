"""A training run as a `Job` of the plan: what its memory and its time depend on."""

from __future__ import annotations

from langwright.model import ModelConfig
from langwright.plan import Job
from langwright.train.config import TrainConfig


def training_job(config: TrainConfig, model: ModelConfig, length: int, precision: str) -> Job:
    """What a config says about a run over rows of `length` tokens.

    precision: the number format, no longer "auto".
    """
    optimizer, tokens = config.optim, config.tokens
    if config.steps is not None:
        tokens = config.steps * (config.batch_tokens // length) * length
    return Job(
        model=model,
        sequence_length=length,
        batch_tokens=config.batch_tokens,
        tokens=tokens,
        minutes=config.minutes,
        parallel=config.parallel,
        optimizer=optimizer.name,
        momentum=optimizer.name != "sgd" or bool(optimizer.momentum),
        galore_rank=optimizer.galore_rank,
        offload=config.offload,
        precision=precision,
        micro_rows=config.micro_batch_rows,
        lanes=config.lanes,
        chunk_tokens=config.chunk_tokens,
        checkpointing=config.checkpointing,
        activation_budget=config.activation_budget,
        compiled=config.compile,
    )
