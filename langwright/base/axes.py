"""Scales and ticks for charts: numbers to pixels, and the round numbers a reader expects."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from langwright.base.progress import human_count

Format = Callable[[float], str]
SMALLEST = 1e-250  # on a logarithmic scale; below it rounding gets in the way


@dataclass(frozen=True)
class Scale:
    """Maps [low, high] to pixels [start, end], linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of `value`."""
        if self.log:
            low = math.log(self.low)
            share = (math.log(value) - low) / (math.log(self.high) - low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """About `count` round numbers inside the range."""
        if self.log:
            return log_ticks(self.low, self.high, count)
        return nice_ticks(self.low, self.high, count)


def fit_scale(
    values: Iterable[float],
    start: float,
    end: float,
    *,
    log: bool = False,
    zero: bool = False,
    pad: float = 0.0,
) -> Scale:
    """A scale that holds all finite `values` (positive ones if `log`), with some room around."""
    good = [v for v in values if math.isfinite(v) and (v > SMALLEST or not log)]
    low, high = (min(good), max(good)) if good else (1.0 if log else 0.0, 2.0 if log else 1.0)
    if zero and not log:
        low, high = min(low, 0.0), max(high, 0.0)
    if log:
        if low == high:
            low, high = low / 2, high * 2
        room = math.exp(pad * (math.log(high) - math.log(low)))
        return Scale(low / room, high * room, start, end, log=True)
    if low == high:
        half = abs(low) * 0.1 or 0.5
        low, high = low - half, high + half
    room = (high - low) * pad
    keep_low, keep_high = zero and low == 0.0, zero and high == 0.0
    return Scale(low if keep_low else low - room, high if keep_high else high + room, start, end)


def nice_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten inside [low, high]."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    rough = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def log_ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Powers of ten inside [low, high], with 2 and 5 between them where there is room."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for marks in ((1,), (1, 3), (1, 2, 5)):
        ticks = [m * 10.0**e for e in range(first, last + 1) for m in marks]
        ticks = [t for t in ticks if low * 0.999 <= t <= high * 1.001]
        if len(ticks) >= max(2, count // 2):
            break
    if len(ticks) < 2:  # less than a factor of two: ordinary ticks read better
        return [tick for tick in nice_ticks(low, high, count) if tick > 0]
    return ticks[:: max(1, math.ceil(len(ticks) / (count * 1.5)))]


def tick_format(ticks: Sequence[float]) -> Format:
    """A way of writing numbers that tells these ticks apart."""
    largest = max((abs(t) for t in ticks), default=0.0)
    if largest >= 10_000:
        return human_count
    gaps = [abs(b - a) for a, b in itertools.pairwise(ticks) if a != b]
    if largest and largest < 1e-3:
        return lambda value: f"{value:.2g}"
    step = min(gaps, default=1.0)
    digits = next((d for d in range(7) if abs(step - round(step, d)) < step * 1e-6), 6)
    return lambda value: f"{value:.{digits}f}"


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart until they are `gap` from each other, as little as possible.

    They keep their order and, where that is possible, stay within [low, high].
    """
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = [min(max(positions[i], low), high) for i in order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    if placed and placed[-1] > high:
        placed[-1] = high
        for i in range(len(placed) - 2, -1, -1):
            placed[i] = min(placed[i], placed[i + 1] - gap)
    result = [0.0] * len(placed)
    for place, i in zip(placed, order):
        result[i] = place
    return result
