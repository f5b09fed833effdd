"""From a config, a model and data to a run that is ready to begin: every choice made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from langwright.base import Config, UserError, hash_json
from langwright.dataset import Rows
from langwright.model import ModelConfig
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
from langwright.train.choices import DTYPES, Choices, choose_device
from langwright.train.choosing import apply_choices, brief, choose_all
from langwright.train.compiling import undo_compile
from langwright.train.config import COSMETIC, TrainConfig
from langwright.train.float8 import undo_float8, use_float8
from langwright.train.host_memory import keep_freed_memory
from langwright.train.objective import Objective
from langwright.train.offload import HostOptimizer, offloading
from langwright.train.probe import Probe
from langwright.train.smaller import FILE, read_smaller, write_smaller
from langwright.train.timeline import Timeline
from langwright.train.update import Updater
from langwright.train.writable import check_writable


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
    choices, old = _of_the_first(choices, old, form, config)
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
        leave=lambda rows: write_smaller(path.with_name(FILE), key, rows),
    )
    smaller = read_smaller(path.with_name(FILE), key, form)
    if old:
        say("going on with the choices of the first start: " + brief(choices))
        apply_choices(choices, updater, config, smaller)
    else:
        choose_all(config, choices, Probe(updater, rows, batch_rows), valid_rows, started, smaller)
    if form.first and (old is None or smaller is not None):
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
    _refuse_compiled(config)
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


def _refuse_compiled(config: TrainConfig) -> None:
    """A compiled backward pass is one graph: it came to the same numbers, but put nothing off."""
    zero_bubble = config.parallel.pp > 1 and config.parallel.schedule == "zero-bubble"
    if config.compile is True and zero_bubble:
        raise UserError(
            "compiled blocks cannot put off the gradients of their weights, and that is what a "
            "zero-bubble pipeline does in its bubbles",
            where="compile",
            found="true, with parallel.schedule = zero-bubble",
            fix='compile = false, or parallel.schedule = "1f1b" or "interleaved"',
        )


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


def _of_the_first(
    choices: Choices, old: Choices | None, form: Alone, config: TrainConfig
) -> tuple[Choices, Choices | None]:
    """The choices that the first process found, or that none were there: nodes may have folders of
    their own, and only the first process writes."""
    record = form.agree(None if old is None else old.values)
    if (record is None) == (old is None):
        return choices, old
    choices = Choices(choices.key, choices.say, record or {})
    if record is not None:
        return choices, choices
    choose_device(config.device, choices)
    return choices, None


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
