"""How open settings are decided: one set of rules for the trainer and the plan.

The trainer puts in what it measured (activations, seconds), the plan what arithmetic says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from langwright.parallel import Layout

Method = Literal["none", "selective", "full"]
METHODS: tuple[Method, ...] = ("none", "selective", "full")  # the cheapest first

CPU_TOKENS = 16384  # of a pass with all cores of a CPU
LANE_TOKENS = 8192  # of a pass with one core, while the others have passes of their own
CPU_SHARE = 0.5  # of the main memory, that activations may take on a CPU
DEVICE_TOKENS = 131072  # of a pass on a GPU, at most
ENOUGH_TOKENS = 16384  # of a pass, after which a GPU gains nothing by more
# Rules of thumb for what has not been measured yet.
COMPILE_SECONDS = 45.0  # to compile the blocks, forward and backward, on a busy machine
COMPILE_GAIN = {"cpu": 0.2, "cuda": 0.35}  # share of the time that compiling saves


def cpu_rows(rows: int, length: int) -> int:
    """Rows of a pass on a CPU, of `rows` with `length` tokens each: about 16,384 tokens."""
    return even_part(rows, max(1, CPU_TOKENS // length))


def even_part(rows: int, most: int) -> int:
    """The largest divisor of `rows` up to `most`, unless it is less than half of that."""
    if rows <= most:
        return rows
    divisor = next(d for d in range(most, 0, -1) if rows % d == 0)
    return divisor if 2 * divisor >= most else most


def cpu_tokens(rows: int, length: int, asked: int | None, lanes: int) -> int:
    """Tokens that go through a model on a CPU at a time, at most.

    Args:
        rows: of a batch, for this process.
        asked: rows of a micro-batch, if somebody said.
        lanes: micro-batches that may run at a time.
    """
    if asked is not None:
        return length * min(rows, asked * lanes)
    most = max(CPU_TOKENS, LANE_TOKENS * lanes) if lanes > 1 else CPU_TOKENS
    return length * max(1, min(rows, most // length))


def cpu_method(needed: Callable[[Method], float], room: float) -> Method:
    """The first method whose activations, `needed` bytes, fit into `room`; else the last one."""
    return next((method for method in METHODS if needed(method) <= room), METHODS[-1])


def device_sizes(rows: int, length: int) -> list[int]:
    """Rows of a pass to try on a GPU, the largest first: each is half of the one before.

    rows: of a batch, for this process; length: of their tokens, those that it works on.
    """
    sizes = [min(rows, max(1, DEVICE_TOKENS // length))]
    while sizes[-1] > 1:
        sizes.append((sizes[-1] + 1) // 2)
    return sizes


def enough_rows(most: int, length: int) -> int:
    """Rows, of at most `most`, that fill a GPU."""
    return min(most, max(1, ENOUGH_TOKENS // length))


def most_that_fit(sizes: list[int], fits: Callable[[int], bool]) -> int:
    """The first size that fits; 0: none does."""
    return next((rows for rows in sizes if fits(rows)), 0)


def device_method(fitting: Mapping[Method, int], enough: int) -> Method:
    """The first method with which `enough` rows fit on a GPU; else the one with the most.

    fitting: rows that fit, by method, the cheapest method first.
    """
    for method, rows in fitting.items():
        if rows >= enough:
            return method
    return max(fitting, key=lambda method: fitting[method]) if any(fitting.values()) else "full"


def why_not_compiled(layout: Layout | None) -> str | None:
    """Why blocks laid out so are not compiled unless somebody asks for it; None: they can be.

    All other layouts come to the same losses and gradients compiled and not.
    """
    if layout is None or layout.alone:
        return None
    if layout.pp > 1:
        return "a pipeline: where asked for only"
    if layout.config.ep > 1:
        return "experts over processes stay uncompiled, so little is gained: where asked for only"
    return None


def pays_to_compile(kind: str, seconds: float | None) -> bool:
    """Whether a run of so many uncompiled seconds (None: a long one) would win back what compiling
    costs on a device of this kind."""
    if kind not in COMPILE_GAIN:
        return False
    return seconds is None or seconds * COMPILE_GAIN[kind] >= COMPILE_SECONDS
