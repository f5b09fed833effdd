"""Error bars of a few runs: standard errors, and Student's interval of paired differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, its standard error, and its 95 % interval (None for a single seed)."""

    mean: float
    count: int
    standard_error: float | None
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """-1 or 1 if the whole interval lies below or above 0; 0 if that is not shown."""
        if self.low is None or self.high is None:
            return 0
        return -1 if self.high < 0 else 1 if self.low > 0 else 0


def estimate(values: Sequence[float], level: float = 0.95) -> Estimate:
    """Mean of independent values, such as the differences of runs that share a seed.

    The interval is mean ± t s / sqrt(n), t of Student's distribution with n - 1 degrees of freedom.
    """
    count, mean = len(values), fmean(values)
    if count < 2:
        return Estimate(mean, count, None, None, None)
    error = stdev(values) / math.sqrt(count)
    reach = student_quantile(count - 1, level) * error
    return Estimate(mean, count, error, mean - reach, mean + reach)


def student_quantile(degrees: int, level: float = 0.95) -> float:
    """t with P(-t < T < t) = level for Student's T with so many degrees of freedom."""
    if degrees < 1 or not 0 < level < 1:
        raise ValueError("degrees >= 1 and 0 < level < 1")
    low, high = 0.0, math.pi / 2  # the angle atan(t / sqrt(degrees))
    for _ in range(100):
        middle = (low + high) / 2
        if _within(middle, degrees) < level:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(degrees)


def _within(angle: float, degrees: int) -> float:
    """P(-t < T < t) for t = sqrt(degrees) tan(angle): a finite sum (Abramowitz & Stegun 1964,
    26.7.3 and 26.7.4)."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = degrees % 2 == 1
    if degrees == 1:
        return 2 * angle / math.pi
    term = total = math.cos(angle) if odd else 1.0
    for k in range(3 if odd else 2, degrees - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total
