"""Where gradients of sharded weights stand between the micro-batches of an update.

Added up over the processes once, at the end, they are sent once only, but until then every process
holds the whole fp32 gradient, as if nothing were sharded. Added up and shared out after every
micro-batch they take a process's share only (the gradients of ZeRO stage 2, Rajbhandari et al.
2019, arXiv:1910.02054).
"""

from __future__ import annotations

from dataclasses import dataclass

from langwright.base import human_bytes
from langwright.parallel.layout import Layout

SMALL = 2 * 2**30  # bytes of a whole gradient that no device will miss
NUMBER = 4  # bytes


@dataclass(frozen=True)
class Accumulation:
    """The choice, with its reason."""

    sharded: bool
    reason: str

    def describe(self) -> str:
        """A line for the person who reads along."""
        value = "sharded" if self.sharded else "whole"
        return f"gradients between micro-batches: {value} ({self.reason})"


def choose_accumulation(layout: Layout, numbers: int) -> Accumulation:
    """Whole or sharded, alike on all processes that share the same weights.

    Args:
        numbers: parameters whose gradients a process would hold whole (of its stages, its cut).
    """
    config = layout.config
    if config.accumulate != "auto":
        return Accumulation(config.accumulate == "sharded", "as asked")
    if layout.pp > 1 and config.schedule == "zero-bubble":
        return Accumulation(False, "a zero-bubble pipeline has them only at the end")
    if config.offload:
        return Accumulation(True, "offload saves the device's memory")
    whole = NUMBER * numbers
    relation = "more than" if whole > SMALL else "at most"
    reason = f"whole {human_bytes(whole)}, {relation} {human_bytes(SMALL)}"
    return Accumulation(whole > SMALL, reason)
