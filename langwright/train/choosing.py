"""All choices of a run in their order, or those of its first start again."""

from __future__ import annotations

import time

from langwright.base import UserError, machine, matmul_peak
from langwright.dataset import Rows
from langwright.model import ModelConfig, attention_kernel
from langwright.plan import rules
from langwright.train.activation_checkpointing import checkpoint_activations
from langwright.train.checkpointing_choice import choose_checkpointing, choose_pass_together
from langwright.train.choices import DTYPES, Choices, choose_micro_rows
from langwright.train.config import TrainConfig
from langwright.train.lane_choice import choose_lanes, reconsider_lanes
from langwright.train.loss_scale import LossScale
from langwright.train.probe import (
    Probe,
    choose_compile,
    choose_precision,
    choose_steps_for_time,
    set_dtype,
)
from langwright.train.training_job import training_job
from langwright.train.update import Updater

FORWARD_SHARE = 0.4  # an evaluation's cost per token, as a share of a training step's
EVALUATIONS = 10  # per run, where the config does not say


def choose_all(
    config: TrainConfig,
    choices: Choices,
    probe: Probe,
    valid_rows: int,
    started: float,
    smaller: int | None,
) -> None:
    """Decide all that is open, and bring the updater into that state. All processes together.

    Args:
        probe: measures on the run's first rows.
        valid_rows: rows looked at by one evaluation.
        started: `time.perf_counter()` at the run's beginning.
        smaller: rows of a micro-batch at most, as an earlier start wrote down.
    """
    updater, rows = probe.updater, probe.rows
    kind = updater.device.type
    fast_bf16 = machine().bf16 if kind == machine().device else kind == "cuda"
    precision = choose_precision(config.precision, choices, fast_bf16, probe)
    set_dtype(updater, precision)
    _tell_attention(choices, updater, rows.sequence_length)
    if precision == "fp16":
        updater.loss_scale = LossScale(updater.device)
    _choose_pass(config, choices, probe, precision)
    _take_smaller(choices, updater, smaller)
    steps = _fixed_steps(config, rows, probe.batch_rows)
    budget = None if config.minutes is None else 60.0 * config.minutes
    alone = updater.micro_rows
    choose_lanes(config.lanes, choices, probe, config.micro_batch_rows)
    choose_compile(config.compile, choices, probe, steps=steps, seconds=budget)
    reconsider_lanes(config.lanes, choices, probe, alone, steps=steps, seconds=budget)
    if steps is not None:
        choices.decide("total_steps", steps, _length_reason(config))
        return
    assert budget is not None

    def evaluations(total: int, step_seconds: float) -> float:
        every = evaluation_interval(config, total)
        count = 1 + (total // every if every else 0)
        return count * FORWARD_SHARE * step_seconds * valid_rows / probe.batch_rows

    peak_rate(choices)  # measured once; better here than within the budget
    left = updater.form.agree(max(1.0, budget - (time.perf_counter() - started)))
    choose_steps_for_time(left, evaluations, choices, probe)


def _choose_pass(config: TrainConfig, choices: Choices, probe: Probe, precision: str) -> None:
    """Which activations are kept, and how many rows go through at a time."""
    updater, length = probe.updater, probe.rows.sequence_length
    compiled, rows = config.compile is True, config.micro_batch_rows
    model_config = getattr(updater.model, "config", None)
    job = None
    if isinstance(model_config, ModelConfig):
        job = training_job(config, model_config, length, precision)
    several_gpus = updater.form.size > 1 and updater.device.type == "cuda"
    if several_gpus and job is not None and (config.checkpointing == "auto" or rows is None):
        choose_pass_together(job, choices, probe, compiled=compiled)
        return
    choose_checkpointing(
        config.checkpointing,
        config.activation_budget,
        choices,
        probe,
        compiled=compiled,
        asked=rows,
        lanes=config.lanes,
        job=job,
    )
    updater.micro_rows = choose_micro_rows(rows, probe.own_rows, length, choices, probe.fits)


def _tell_attention(choices: Choices, updater: Updater, length: int) -> None:
    """Write down which kernel computes the model's attention; the model itself picks it."""
    model_config = getattr(updater.model, "config", None)
    if isinstance(model_config, ModelConfig):
        dtype = DTYPES[choices["precision"]]
        kernel = attention_kernel(model_config, updater.device, dtype, length, training=True)
        choices.decide("attention", *kernel)


def _take_smaller(choices: Choices, updater: Updater, rows: int | None) -> None:
    """Take the smaller micro-batch that an earlier start wrote down as it ran out of memory."""
    if rows is not None and rows < updater.micro_rows:
        reason = "an earlier start ran out of memory with more"
        updater.micro_rows = choices.decide("micro_batch_rows", rows, reason)


def apply_choices(
    choices: Choices, updater: Updater, config: TrainConfig, smaller: int | None
) -> None:
    """Bring the updater into the state that an earlier start chose, maybe under another layout.

    smaller: as in `choose_all`.
    """
    set_dtype(updater, choices["precision"])
    checkpoint_activations(
        updater.model,
        choices["checkpointing"],
        config.activation_budget,
        compiled=config.compile is True,
    )
    if choices["precision"] == "fp16":
        updater.loss_scale = LossScale(updater.device)
    updater.micro_rows = choices["micro_batch_rows"]
    _take_smaller(choices, updater, smaller)
    updater.use_lanes(choices["lanes"] if updater.form.size == 1 else 1)
    if not choices["compile"]:
        return
    reason = rules.why_not_compiled(updater.form.layout)
    if config.compile == "auto" and reason is not None:
        choices.say(f"compile: False ({reason})")
        return
    updater.compile()


def peak_rate(choices: Choices) -> float | None:
    """The matmul rate (FLOP/s) of the run's device in the run's precision, measured.

    None for fp16 on a CPU, which multiplies it so slowly that measuring takes seconds.
    """
    if choices["device"] == "cpu" and choices["precision"] == "fp16":
        return None
    precision = choices["precision"]
    # Shares of peak are of bf16's also for float8: so its gain shows.
    return matmul_peak("bf16" if precision == "fp8" else precision, choices["device"])


def evaluation_interval(config: TrainConfig, total_steps: int) -> int:
    """Steps between evaluations; 0: at the end only."""
    if config.evaluate_every is not None:
        return config.evaluate_every
    return max(1, total_steps // EVALUATIONS)


def brief(choices: Choices) -> str:
    """All choices in a line."""
    return ", ".join(f"{name} {entry['value']}" for name, entry in choices.values.items())


def _fixed_steps(config: TrainConfig, rows: Rows, batch_rows: int) -> int | None:
    """Length of the run in steps; None if it is a time."""
    if config.minutes is not None:
        return None
    if config.steps is not None:
        return config.steps
    if config.tokens is not None:
        return -(-config.tokens // (batch_rows * rows.sequence_length))
    if rows.epoch_rows is None:
        raise UserError(
            "these rows have no end, so a pass over them has no length",
            where="epochs",
            fix="give steps, tokens or minutes instead",
        )
    epochs = 1.0 if config.epochs is None else config.epochs
    return max(1, -int(-epochs * rows.epoch_rows // batch_rows))


def _length_reason(config: TrainConfig) -> str:
    for name in ("steps", "tokens", "epochs"):
        if (value := getattr(config, name)) is not None:
            return f"{name} = {value:,}"
    return "one pass over the data"
