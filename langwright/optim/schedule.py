"""The learning rate over the run, as a multiple of its peak."""

from __future__ import annotations

import math
from collections.abc import Callable

from langwright.base import UserError
from langwright.optim.config import ScheduleConfig


def schedule(config: ScheduleConfig, total_steps: int) -> Callable[[float], float]:
    """The multiplier of the peak learning rate as a function of the step (which may be a fraction).

    Step s (counted from 0) makes update number t = s + 1, and takes the rate that the textbook
    form gives for t: so the first update is not wasted on a rate of 0 (which t = 0 would give),
    and since the decay ends at t = total_steps + 1, neither is the last one if the floor is 0.

    Args:
        config: the shape.
        total_steps: updates in the whole run, at least 1.

    Returns:
        ``multiplier(step)`` in [0, 1]. Steps past the end stay at the floor.
    """
    warmup = warmup_length(config, total_steps)
    end = total_steps + 1
    if config.kind == "wsd":
        begin = max(warmup, end - max(1, round(config.decay_fraction * total_steps)))
    else:
        begin = warmup

    def multiplier(step: float) -> float:
        t = step + 1
        if t < warmup:
            return config.start + (1.0 - config.start) * t / warmup
        if config.kind == "constant" or t <= begin:
            return 1.0
        done = min(1.0, (t - begin) / max(1, end - begin))
        left = 0.5 * (1.0 + math.cos(math.pi * done)) if config.kind == "cosine" else 1.0 - done
        return config.floor + (1.0 - config.floor) * left

    return multiplier


def fallen_share(config: ScheduleConfig, total_steps: int) -> Callable[[float], float]:
    """How much of the final fall of the rate is done at a step: 0 before it, 1 at the floor."""
    multiplier = schedule(config, total_steps)
    warmup = warmup_length(config, total_steps)

    def fallen(step: float) -> float:
        if step + 1 < warmup or config.floor == 1.0:
            return 0.0
        return (1.0 - multiplier(step)) / (1.0 - config.floor)

    return fallen


def warmup_length(config: ScheduleConfig, total_steps: int) -> int:
    """Steps of warm-up in a run of `total_steps`."""
    if total_steps < 1:
        raise UserError("a run needs at least one step", found=total_steps)
    if config.warmup_steps is None:
        return math.ceil(config.warmup_fraction * total_steps)
    if config.warmup_steps > total_steps:
        raise UserError(
            "the warm-up is longer than the run",
            where="schedule.warmup_steps",
            found=f"{config.warmup_steps} steps of warm-up in {total_steps} steps",
            fix="lower warmup_steps, or leave it out and set warmup_fraction",
        )
    return config.warmup_steps


def learning_rate_reference(
    t: int, *, warmup: int, end: int, max_lr: float, min_lr: float
) -> float:
    """Linear warm-up and cosine decay to a floor, written as in the textbook.

    ``t < warmup``: ``max_lr * t / warmup``; then half a cosine from `max_lr` down to `min_lr` at
    ``t = end``; then `min_lr`. The rate at t = 0 is 0: a loop that counts from 0 wastes a step.
    """
    if t < warmup:
        return max_lr * t / warmup
    if t > end:
        return min_lr
    progress = (t - warmup) / (end - warmup)
    return min_lr + 0.5 * (1.0 + math.cos(math.pi * progress)) * (max_lr - min_lr)
