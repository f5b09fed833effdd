"""How many threads: measured, not guessed.

With a core that another job uses, two threads are slower than one: at each product both wait for
the later one. So the number is the one with which one decoding step is fastest here and now.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch

from langwright.base import machine


def candidates(cores: int) -> list[int]:
    """The numbers to try: 1, 2, 4 ... and all cores."""
    powers = [1 << n for n in range(cores.bit_length()) if 1 << n <= cores]
    return sorted({*powers, cores})


@dataclass(frozen=True)
class Calibration:
    """A number of threads, and why this one."""

    threads: int
    seconds: dict[int, float]  # the median time of a step with each number that was tried

    def told(self) -> str:
        """In words."""
        others = [
            f"{1e3 * seconds:.1f} ms with {count}"
            for count, seconds in self.seconds.items()
            if count != self.threads
        ]
        number = _threads(self.threads)
        if not others:
            return f"{number}: there is one core"
        own = f"{1e3 * self.seconds[self.threads]:.1f} ms"
        return f"{number}: a token takes {own}, {', '.join(others)}"


def calibrate_threads(step: Callable[[], object], rounds: int = 7) -> Calibration:
    """Set torch's threads to the number with which `step` is fastest.

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
    return Calibration(best, {count: median(each) for count, each in seconds.items()})


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


class StepThreads:
    """The threads of a running engine's steps.

    Steps are compared with like ones only, as more or longer texts take longer by nature: with
    those of as many texts and the same length, each to the next power of two.

    Args:
        step: what is measured.
        wanted: a number, or "auto": measured now and after every slow-down. None: as torch has
            them.
        count: steps that are looked at together, see `Slowdown`.
    """

    def __init__(
        self,
        step: Callable[[], object],
        wanted: int | Literal["auto"] | None,
        count: int = 100,
    ) -> None:
        self._step, self._wanted, self._window = step, wanted, count
        self._kinds: dict[tuple[int, int], Slowdown] = {}
        self.calibrations = 0
        self.last: Calibration | None = None
        if wanted == "auto":
            self._calibrate()
        elif wanted is not None:
            torch.set_num_threads(wanted)
        self.count = torch.get_num_threads()

    def look(self, lengths: Sequence[int], seconds: float) -> None:
        """Take the time of a step in which texts of these lengths got one token each. Where steps
        have become slow another program may have come: the threads are measured anew."""
        if self._wanted != "auto" or not lengths:
            return
        kind = (len(lengths).bit_length(), max(lengths).bit_length())
        if self._kinds.setdefault(kind, Slowdown(self._window)).add(seconds):
            self._calibrate()

    def told(self) -> str:
        """How many there are, and why."""
        if self.last is not None:
            return self.last.told()
        why = "as PyTorch has them" if self._wanted is None else "as set"
        return f"{_threads(self.count)}: {why}"

    def _calibrate(self) -> None:
        self.last = calibrate_threads(self._step)
        self.count = self.last.threads
        self.calibrations += 1
        self._kinds.clear()


def _threads(count: int) -> str:
    return f"{count} thread" + ("s" if count != 1 else "")
