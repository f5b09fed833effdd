"""What a person can set about a training run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from langwright.base import Config
from langwright.optim import OptimConfig, ScheduleConfig
from langwright.parallel import ParallelConfig
from langwright.train.change_config import ChangeConfig

# These change what is shown or kept, never the weights: they may differ when a run is continued.
COSMETIC = frozenset(
    {
        "evaluate_every",
        "evaluate_rows",
        "sample_every",
        "sample_prompts",
        "sample_tokens",
        "checkpoint_minutes",
        "checkpoint_every",
        "checkpoint_async",
        "keep_last",
        "keep_every",
        "log_every",
        "max_bad_steps",
        "tensorboard",
        "wandb",
        "trackio",
        "spike_threshold",
        "statistics_every",
        "profile_at",
        "profile_steps",
        "final",
        "parallel",
    }
)


def _default_optimizer() -> OptimConfig:
    return OptimConfig.parse({})


def _default_schedule() -> ScheduleConfig:
    return ScheduleConfig.parse({})


def _default_parallel() -> ParallelConfig:
    return ParallelConfig.parse({})


class TrainConfig(Config):
    """One training run: how long, in what pieces, how precisely, and what is kept on the way."""

    steps: int | None = Field(None, description="length of the run in updates", ge=1)
    tokens: int | None = Field(None, description="length of the run in tokens", ge=1)
    epochs: float | None = Field(
        None, description="length of the run in passes over the data", gt=0
    )
    minutes: float | None = Field(
        None,
        description="length of the run as time; turned into steps by the measured speed, and "
        "shortened should it take longer",
        gt=0,
    )
    batch_tokens: int = Field(16384, description="tokens per update (rows x sequence_length)", ge=1)
    micro_batch_rows: int | None = Field(
        None, description="rows per forward pass, the rest is accumulated; none: automatic", ge=1
    )
    lanes: int | None = Field(
        None,
        description="micro-batches that run at the same time on a CPU, one core each; none: as "
        "many as cores if measured quicker",
        ge=1,
    )
    lr: float | None = Field(None, description="short for optimizer.lr, and stronger", gt=0)
    optimizer: OptimConfig = Field(
        default_factory=_default_optimizer, description="how gradients become updates"
    )
    schedule: ScheduleConfig = Field(
        default_factory=_default_schedule, description="learning rate over the run"
    )
    clip: float | None = Field(
        1.0, description="largest global norm of the gradient; none: no clipping", gt=0
    )
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = Field(
        "auto",
        description="number format of activations and products; weights stay fp32; fp8: bf16 with "
        "the blocks' products in float8 (torchao)",
    )
    compile: Literal["auto"] | bool = Field(
        "auto", description="compile the blocks; auto: if it saves more time than it costs"
    )
    checkpointing: Literal["auto", "none", "selective", "full", "budget"] = Field(
        "auto",
        description="which activations are dropped and computed again in the backward pass: none, "
        "all but the products, all but the blocks' inputs, or a share of them",
    )
    activation_budget: float = Field(
        0.5, description="checkpointing = budget: share of the activations that is kept", ge=0, le=1
    )
    offload: Literal["none", "activations", "optimizer", "both"] = Field(
        "none",
        description="what a GPU run keeps in main memory: activations until the backward pass "
        "needs them, the optimizer with its weights and moments",
    )
    changes: list[ChangeConfig] = Field(
        [],
        description="changes of rate, batch or mix on the way, at a share of the run or by what "
        "validation says; a batch ramp is a list of them",
    )
    router_bias_rate: float = Field(
        1e-3,
        description="experts with a selection bias: by how much an update raises the bias of an "
        "expert with too few tokens and lowers that of one with too many",
        ge=0,
    )
    chunk_tokens: int | None = Field(
        None, description="tokens whose logits stand in memory at once; none: automatic", ge=1
    )
    device: str = Field("auto", description="cuda, mps or cpu; auto: the first that is there")
    seed: int = Field(0, description="seed of data order and dropout", ge=0)
    evaluate_every: int | None = Field(
        None, description="steps between evaluations; none: ten per run; 0: at the end only", ge=0
    )
    evaluate_rows: int | None = Field(
        128, description="rows of each validation set to look at; none: all", ge=1
    )
    sample_every: int | None = Field(
        None, description="steps between samples; none: with each evaluation; 0: never", ge=0
    )
    sample_prompts: list[str] = Field([], description="texts to continue on the way; empty: none")
    sample_tokens: int = Field(50, description="length of a sample", ge=1)
    checkpoint_minutes: float = Field(
        0.5,
        description="minutes of work that may be lost; stretched so that saving costs under 2 %",
        gt=0,
    )
    checkpoint_every: int | None = Field(
        None, description="steps between checkpoints, besides those by time", ge=1
    )
    checkpoint_async: Literal["auto"] | bool = Field(
        "auto",
        description="write checkpoints from a copy in main memory while training goes on; auto: on "
        "a GPU, or with several processes",
    )
    keep_last: int = Field(2, description="checkpoints that are kept, besides the best model", ge=1)
    keep_every: int | None = Field(
        None, description="checkpoints of multiples of so many steps are made and kept", ge=1
    )
    final: Literal["last", "best"] = Field(
        "last", description="result: the last weights, or those with the lowest validation loss"
    )
    log_every: int = Field(1, description="steps between lines of metrics.jsonl", ge=1)
    max_bad_steps: int = Field(
        20, description="updates in a row with a non-finite loss or gradient before giving up", ge=1
    )
    spike_threshold: float | None = Field(
        6.0,
        description="deviations above the last updates' median at which a loss is called a spike "
        "and its batch written down; none: never",
        gt=0,
    )
    statistics_every: int | None = Field(
        None,
        description="steps between looks at gradients, weights and activations, written to "
        "statistics.jsonl; none: only when a file named statistics appears beside metrics.jsonl",
        ge=1,
    )
    profile_at: int | None = Field(
        None,
        description="step at which a trace of the profiler begins, written to profiles/; none: "
        "only when a file named profile appears beside metrics.jsonl",
        ge=1,
    )
    profile_steps: int = Field(3, description="updates in a trace of the profiler", ge=1)
    parallel: ParallelConfig = Field(
        default_factory=_default_parallel,
        description="how the processes that torchrun started share out the work",
    )
    tensorboard: bool = Field(False, description="write TensorBoard files as well")
    wandb: str | None = Field(None, description="Weights & Biases project to log to as well")
    trackio: str | None = Field(None, description="Trackio project to log to as well")

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        given = [
            n for n in ("steps", "tokens", "epochs", "minutes") if getattr(self, n) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"give one length for the run, not {' and '.join(given)}")
        return self

    @property
    def optim(self) -> OptimConfig:
        """The optimizer's settings, with `lr` put in."""
        return self.optimizer if self.lr is None else self.optimizer.replace(lr=self.lr)


class PretrainConfig(TrainConfig):
    """Training on documents: next-token prediction over a dataset folder."""

    train_split: str = Field("train", description="split of the dataset to train on")
    valid_split: str | None = Field(
        "valid", description="split for validation; none: no validation"
    )
    start_from: str | None = Field(
        None,
        description="folder of a model whose weights the training begins with (continual "
        "pretraining); none: fresh weights. The model's shape is then the folder's",
    )
