"""From a config, a model and data to a run that is ready to begin: every choice made."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from langwright.base import Config, UserError, hash_json, machine, matmul_peak
from langwright.dataset import Rows
from langwright.optim import build_optimizer
from langwright.train.choices import Choices, choose_device, choose_micro_rows
from langwright.train.compiling import compile_blocks
from langwright.train.config import COSMETIC, TrainConfig
from langwright.train.loss_scale import LossScale
from langwright.train.objective import Objective
from langwright.train.probe import (
    Probe,
    choose_compile,
    choose_lanes,
    choose_precision,
    choose_steps_for_time,
    set_dtype,
)
from langwright.train.update import Updater

FORWARD_SHARE = 0.4  # an evaluation's cost per token, as a share of a training step's
EVALUATIONS = 10  # per run, where the config does not say


@dataclass
class Setup:
    """A run that is ready: what updates the model, on what rows, how often."""

    updater: Updater
    choices: Choices
    batch_rows: int  # rows of a global batch
    row_tokens: int  # T
    total_steps: int

    @property
    def batch_tokens(self) -> int:
        """Tokens of a global batch, counted or not."""
        return self.batch_rows * self.row_tokens


def prepare(
    model: nn.Module,
    rows: Rows,
    config: TrainConfig,
    objective: Objective,
    path: Path,
    *,
    valid_rows: int,
    started: float,
    say: Callable[[str], None],
) -> Setup:
    """Make all choices, or take those of an earlier start from `path`, and build the updater.

    Args:
        path: choices.json.
        valid_rows: rows looked at by one evaluation.
        started: `time.perf_counter()` at the run's beginning; a time budget counts from there.
    """
    key = run_key(model, rows, config)
    old = Choices.load(path, key, say)
    choices = old or Choices(key, say)
    device = choices["device"] if old else choose_device(config.device, choices)
    model.to(device).train()
    batch_rows = _batch_rows(config, rows)
    updater = Updater(
        model,
        build_optimizer(model, config.optim),
        objective,
        device=torch.device(device),
        micro_rows=batch_rows,
        clip=config.clip,
        seed=config.seed,
        say=say,
    )
    if old:
        say("going on with the choices of the first start: " + _brief(choices))
        _apply(choices, updater, model)
    else:
        _choose(config, choices, Probe(updater, rows, batch_rows), valid_rows, started)
        choices.save(path)
    updater.optimizer.zero_grad()
    return Setup(updater, choices, batch_rows, rows.sequence_length, choices["total_steps"])


def run_key(model: nn.Module, rows: Rows, config: TrainConfig) -> str:
    """Hash of everything that decides the final weights (of the first weights, a sample)."""
    settings = {name: v for name, v in config.to_json().items() if name not in COSMETIC}
    shapes = {
        name: [list(p.shape), p.detach().flatten()[:4].tolist()]
        for name, p in model.named_parameters()
    }
    model_config = getattr(model, "config", None)
    described = model_config.to_json() if isinstance(model_config, Config) else None
    return hash_json([settings, shapes, described, rows.fingerprint, rows.sequence_length])


def peak_rate(choices: Choices) -> float | None:
    """The matmul rate (FLOP/s) of the run's device in the run's precision, measured.

    None for fp16 on a CPU, which multiplies it so slowly that measuring takes seconds.
    """
    if choices["device"] == "cpu" and choices["precision"] == "fp16":
        return None
    return matmul_peak(choices["precision"], choices["device"])


def evaluation_interval(config: TrainConfig, total_steps: int) -> int:
    """Steps between evaluations; 0: at the end only."""
    if config.evaluate_every is not None:
        return config.evaluate_every
    return max(1, total_steps // EVALUATIONS)


def _choose(
    config: TrainConfig, choices: Choices, probe: Probe, valid_rows: int, started: float
) -> None:
    updater, rows = probe.updater, probe.rows
    kind = updater.device.type
    fast_bf16 = machine().bf16 if kind == machine().device else kind == "cuda"
    precision = choose_precision(config.precision, choices, fast_bf16, probe)
    set_dtype(updater, precision)
    if precision == "fp16":
        updater.loss_scale = LossScale(updater.device)
    updater.micro_rows = choose_micro_rows(
        config.micro_batch_rows, probe.batch_rows, rows.sequence_length, choices, probe.fits
    )
    steps = _fixed_steps(config, rows, probe.batch_rows)
    budget = None if config.minutes is None else 60.0 * config.minutes
    choose_compile(config.compile, choices, probe, steps=steps, seconds=budget)
    choose_lanes(config.lanes, choices, probe)
    if steps is not None:
        choices.decide("total_steps", steps, _length_reason(config))
        return
    assert budget is not None

    def evaluations(total: int, step_seconds: float) -> float:
        every = evaluation_interval(config, total)
        count = 1 + (total // every if every else 0)
        return count * FORWARD_SHARE * step_seconds * valid_rows / probe.batch_rows

    peak_rate(choices)  # measured once; better here than within the budget
    left = max(1.0, budget - (time.perf_counter() - started))
    choose_steps_for_time(left, evaluations, choices, probe)


def _apply(choices: Choices, updater: Updater, model: nn.Module) -> None:
    set_dtype(updater, choices["precision"])
    if choices["precision"] == "fp16":
        updater.loss_scale = LossScale(updater.device)
    updater.micro_rows = choices["micro_batch_rows"]
    if choices["compile"]:
        compile_blocks(model)
    updater.use_lanes(choices["lanes"])


def _batch_rows(config: TrainConfig, rows: Rows) -> int:
    length = rows.sequence_length
    if config.batch_tokens < length:
        raise UserError(
            "a batch holds less than one row",
            where="batch_tokens",
            found=config.batch_tokens,
            expected=f"at least the sequence length of {length}",
        )
    return config.batch_tokens // length


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


def _brief(choices: Choices) -> str:
    return ", ".join(f"{name} {entry['value']}" for name, entry in choices.values.items())
