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
from langwright.model import ModelConfig, attention_kernel
from langwright.optim import OptimizerSet, fallen_share, schedule
from langwright.parallel import (
    Alone,
    World,
    from_seed,
    from_tensors,
    layout,
    parallelise,
)
from langwright.train.activation_checkpointing import checkpoint_activations
from langwright.train.changes import Changes
from langwright.train.choices import (
    DTYPES,
    Choices,
    choose_device,
    choose_micro_rows,
    even_part,
)
from langwright.train.compiling import undo_compile
from langwright.train.config import COSMETIC, TrainConfig
from langwright.train.float8 import undo_float8, use_float8
from langwright.train.host_memory import keep_freed_memory
from langwright.train.lane_choice import choose_lanes, reconsider_lanes
from langwright.train.loss_scale import LossScale
from langwright.train.objective import Objective
from langwright.train.offload import HostOptimizer, offloading
from langwright.train.probe import (
    Probe,
    choose_checkpointing,
    choose_compile,
    choose_precision,
    choose_steps_for_time,
    set_dtype,
)
from langwright.train.timeline import Timeline
from langwright.train.update import Updater
from langwright.train.writable import check_writable

FORWARD_SHARE = 0.4  # an evaluation's cost per token, as a share of a training step's
UNTRIED_TOKENS = 16_384  # of a micro-batch on a GPU where larger ones are not tried out
EVALUATIONS = 10  # per run, where the config does not say


@dataclass
class Setup:
    """A run that is ready: what updates the model, on what rows, how often."""

    updater: Updater
    form: Alone  # how the work is spread over processes
    choices: Choices
    timeline: Timeline  # which rows each update takes
    changes: Changes  # that came or will come on the way
    config: TrainConfig

    def __post_init__(self) -> None:
        plan = self.config.schedule, self.timeline.places
        self._schedule, self._fallen = schedule(*plan), fallen_share(*plan)

    @property
    def total_steps(self) -> int:
        """Updates of the whole run, as far as is known now."""
        return self.timeline.total_steps

    @property
    def row_tokens(self) -> int:
        """T, tokens in a row."""
        return self.timeline.row_tokens

    def tokens(self, step: int) -> int:
        """Tokens, counted or not, of the first `step` updates."""
        return self.timeline.tokens(step)

    def multiplier(self, step: int) -> float:
        """Of the peak rate, in update `step` (from 0)."""
        rate = self.timeline.at(min(step, self.total_steps - 1)).rate
        return rate * self._schedule(self.timeline.place(step))

    def set_pace(self, step: int) -> float:
        """Set weight decay, momentum and rate of update `step`; returns the rate's multiplier."""
        multiplier, place = self.multiplier(step), self.timeline.place(step)
        share, fallen = self.timeline.share(step), self._fallen(place)
        self.updater.optimizer.set_pace(step, share, multiplier, fallen)
        return multiplier


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
    world: World | None = None,
    fresh: bool = False,
) -> Setup:
    """Make all choices, or take those of an earlier start from `path`, and build the updater.

    Args:
        path: choices.json.
        valid_rows: rows looked at by one evaluation.
        started: `time.perf_counter()` at the run's beginning; a time budget counts from there.
        world: the processes of the run; all of them call this together.
        fresh: the model's weights are (or, on the meta device, will be) drawn from the seed.
    """
    world = world or World()
    key = run_key(model, rows, config, fresh)
    old = Choices.load(path, key, say)
    choices = old or Choices(key, say)
    device = choices["device"] if old else choose_device(config.device, choices)
    batch_rows = _batch_rows(config, rows)
    form = spread(model, config, world, device, fresh=fresh, say=say)
    check_writable(path.parent, form, "the run")
    _check_shares(batch_rows, rows.sequence_length, form.data_size)
    place = torch.device(device if form.size == 1 else world.device)
    if place.type == "cpu":
        keep_freed_memory()
    if config.offload in ("activations", "both"):
        objective = offloading(objective, place)
    updater = Updater(
        form.model,
        _optimizer(config, form),
        objective,
        device=place,
        micro_rows=batch_rows // form.data_size,
        clip=config.clip,
        seed=config.seed,
        say=say,
        form=form,
        router_bias_rate=config.router_bias_rate,
    )
    if old:
        say("going on with the choices of the first start: " + _brief(choices))
        _apply(choices, updater, config)
    else:
        _choose(config, choices, Probe(updater, rows, batch_rows), valid_rows, started)
        if form.first:
            choices.save(path)
        form.wait()
    updater.forget()
    steps, by_tokens = choices["total_steps"], config.steps is None
    timeline = Timeline(rows, batch_rows, steps, by_tokens=by_tokens, parts=form.data_size)
    changes = Changes(config.changes, timeline, config.optim.peak_lr, path.parent, form, say)
    return Setup(updater, form, choices, timeline, changes, config)


def spread(
    model: nn.Module,
    config: TrainConfig,
    world: World,
    device: str,
    *,
    fresh: bool,
    say: Callable[[str], None],
) -> Alone:
    """The model on its device, or on those of all processes as ``config.parallel`` says."""
    place = layout(config.parallel, world)
    if place.alone:
        model.to(device).train()
        return Alone(model)
    model_config = getattr(model, "config", None)
    if not isinstance(model_config, ModelConfig):
        raise UserError("only our own transformer can be spread over processes", where="parallel")
    say(f"{world.size} processes: {place.describe()}")
    seed = config.seed
    weights = dict(model.named_parameters())
    source = from_seed(model_config, seed) if fresh else from_tensors(weights)
    # What the choice of a precision will come to: it decides how FSDP gathers weights.
    fast = "bf16" if world.device.startswith("cuda") else "fp32"
    precision = fast if config.precision == "auto" else config.precision
    form = parallelise(
        model_config,
        seed,
        place,
        source=source,
        compute_dtype=DTYPES.get(precision, torch.bfloat16),
        before_sharding=_before_sharding(config),
    )
    if form.accumulation is not None:
        say(form.accumulation.describe())
    return form


def _before_sharding(config: TrainConfig) -> Callable[[nn.Module], None] | None:
    """What must be done to blocks before their weights are shared out."""
    if config.precision != "fp8":
        return None
    if config.parallel.tp > 1 or config.parallel.pp > 1:
        raise UserError(
            "float8 does not go together with tensor or pipeline parallel",
            where="precision",
            fix="precision = bf16, or shares of the data only (dp_shard, dp_replicate)",
        )
    return lambda model: (use_float8(model), None)[1]


def _optimizer(config: TrainConfig, form: Alone) -> OptimizerSet:
    """The optimizer, where the config says so with its states in main memory."""
    optimizer = form.optimizer(config.optim)
    if config.offload not in ("optimizer", "both"):
        return optimizer
    if form.size > 1:
        raise UserError(
            "over several processes the optimizer goes to main memory with its weights",
            where="offload",
            fix="parallel.offload = true",
        )
    return HostOptimizer(optimizer)


def plain_again(model: nn.Module) -> None:
    """Take back what a run has done to a model besides training it."""
    undo_compile(model)
    checkpoint_activations(model, "none")
    undo_float8(model)


def run_key(model: nn.Module, rows: Rows, config: TrainConfig, fresh: bool = False) -> str:
    """Hash of everything that decides the final weights (of the first weights, a sample; of those
    drawn from the seed, nothing more)."""
    settings = {name: v for name, v in config.to_json().items() if name not in COSMETIC}
    shapes = {
        name: [list(p.shape), "drawn" if fresh else p.detach().flatten()[:4].tolist()]
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
    precision = choices["precision"]
    # Shares of peak are of bf16's also for float8: so its gain shows.
    return matmul_peak("bf16" if precision == "fp8" else precision, choices["device"])


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
    _tell_attention(choices, updater, rows.sequence_length)
    if precision == "fp16":
        updater.loss_scale = LossScale(updater.device)
    compiled = config.compile is True
    choose_checkpointing(
        config.checkpointing, config.activation_budget, choices, probe, compiled=compiled
    )
    own_rows = probe.batch_rows // updater.form.data_size
    if updater.form.size > 1 and kind == "cuda" and config.micro_batch_rows is None:
        # A process that runs out of memory alone would leave the others waiting for it.
        most = max(1, UNTRIED_TOKENS // rows.sequence_length)
        reason = f"{UNTRIED_TOKENS:,} tokens; with several processes more is not tried out"
        updater.micro_rows = choices.decide("micro_batch_rows", even_part(own_rows, most), reason)
    else:
        updater.micro_rows = choose_micro_rows(
            config.micro_batch_rows, own_rows, rows.sequence_length, choices, probe.fits
        )
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
    left = max(1.0, budget - (time.perf_counter() - started))
    choose_steps_for_time(left, evaluations, choices, probe)


def _tell_attention(choices: Choices, updater: Updater, length: int) -> None:
    """Write down which kernel computes the model's attention; the model itself picks it."""
    model_config = getattr(updater.model, "config", None)
    if isinstance(model_config, ModelConfig):
        dtype = DTYPES[choices["precision"]]
        kernel = attention_kernel(model_config, updater.device, dtype, length, training=True)
        choices.decide("attention", *kernel)


def _apply(choices: Choices, updater: Updater, config: TrainConfig) -> None:
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
    updater.use_lanes(choices["lanes"] if updater.form.size == 1 else 1)
    if choices["compile"]:
        updater.compile()


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


def _check_shares(batch_rows: int, length: int, data_size: int) -> None:
    if batch_rows % data_size:
        raise UserError(
            "the rows of a batch cannot be shared out evenly",
            where="batch_tokens",
            found=f"{batch_rows} rows over {data_size} processes (dp_replicate x dp_shard)",
            expected=f"a multiple of {data_size * length:,} tokens",
        )


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
