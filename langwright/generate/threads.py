"""How many threads: measured, not guessed.

With a core that another job uses, two threads are slower than one: at each product both wait for
the later one. So the number is the one with which one decoding step is fastest here and now.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch

from langwright.base import machine


def candidates(cores: int) -> list[int]:
    """The numbers to try: 1, 2, 4 ... and all cores."""
    powers = [1 << n for n in range(cores.bit_length()) if 1 << n <= cores]
    return sorted({*powers, cores})


def calibrate_threads(step: Callable[[], object], rounds: int = 7) -> int:
    """Set torch's threads to the number with which `step` is fastest, and return it.

    The candidates take turns, so that a busy moment hits all alike; the median of each counts,
    and more threads must be at least 3 % faster than fewer.
    """
    before = torch.get_num_threads()
    options = candidates(machine().cores)
    try:
        seconds: dict[int, list[float]] = {count: [] for count in options}
        for turn in range(rounds + 1):
            for count in options:
                torch.set_num_threads(count)
                begun = time.perf_counter()
                step()
                if turn:  # the first makes threads and buffers
                    seconds[count].append(time.perf_counter() - begun)
    except BaseException:
        torch.set_num_threads(before)
        raise
    best = choose(seconds)
    torch.set_num_threads(best)
    return best


def choose(seconds: dict[int, list[float]]) -> int:
    """The number of threads with the least median time; fewer where 3 % would be all."""
    times = {count: median(each) for count, each in seconds.items()}
    limit = min(times.values()) * 1.03
    return min(count for count, each in times.items() if each <= limit)


class Slowdown:
    """Notices that steps have become slow: the 95th percentile of the last ones over twice that
    of the first. Then the threads are worth calibrating again."""

    def __init__(self, count: int = 100) -> None:
        self._count = count
        self._first: float | None = None
        self._times: list[float] = []

    def add(self, seconds: float) -> bool:
        """Take one step's time; whether to calibrate now."""
        self._times.append(seconds)
        if len(self._times) < self._count:
            return False
        slow = sorted(self._times)[int(0.95 * self._count)]
        self._times.clear()
        if self._first is None:
            self._first = slow
            return False
        if slow <= 2 * self._first:
            return False
        self._first = None
        return True
