"""What changes over a run besides the learning rate: weight decay and momentum."""

from __future__ import annotations

import math
from typing import NamedTuple

from langwright.optim.config import OptimConfig


class Momentum(NamedTuple):
    """A momentum that rises over the first updates and falls back as the rate falls.

    Early gradients change quickly, so a long memory of them misleads; at the end a short memory
    lets the weights follow the falling rate (Keller Jordan's speed runs).
    """

    peak: float
    start: float
    end: float
    warmup_steps: int

    def at(self, step: int, fallen: float) -> float:
        """The momentum of update `step` (from 0); `fallen`: share of the rate's fall that is done.

        The rate's fall runs from 0 (at its peak) to 1 (at the end of the run).
        """
        risen = min(1.0, step / self.warmup_steps)
        rising = self.start + (self.peak - self.start) * risen
        return rising + (self.end - rising) * fallen


def momentum_plan(config: OptimConfig, peak: float) -> Momentum | None:
    """The config's plan for a momentum of `peak`; None: it stays."""
    start, end = config.momentum_start, config.momentum_end
    if start is None and end is None:
        return None
    start, end = peak if start is None else start, peak if end is None else end
    return Momentum(peak, start, end, config.momentum_warmup_steps)


def decay_share(kind: str, share: float, multiplier: float) -> float:
    """The factor on the weight decay when `share` of the run is done.

    Args:
        kind: "constant", "linear", "cosine" or "rate", see `OptimConfig.weight_decay_schedule`.
        share: 0 at the first update, 1 after the last.
        multiplier: of the learning rate.
    """
    if kind == "linear":
        return 1.0 - share
    if kind == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * share))
    return multiplier if kind == "rate" else 1.0
