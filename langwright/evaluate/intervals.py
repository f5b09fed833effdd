"""Error bars: how far an estimate could be from the truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def ratio_standard_error(numerators: np.ndarray, denominators: np.ndarray) -> float:
    """Standard error of sum(numerators) / sum(denominators) over units drawn independently.

    The usual linearised estimator for a ratio (Cochran, Sampling Techniques, section 6.3); the
    units are rows or documents, whose tokens are not independent of each other. Infinite for
    fewer than two units.
    """
    units = len(numerators)
    if units < 2:
        return float("inf")
    x = np.asarray(numerators, dtype=np.float64)
    n = np.asarray(denominators, dtype=np.float64)
    residuals = x - n * (x.sum() / n.sum())
    return float(np.sqrt(np.square(residuals).sum() * units / (units - 1)) / n.sum())


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float] = lambda x: float(np.mean(x)),
    *,
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic of `values` (N, ...), resampling the first axis.

    Source: Efron 1979. With fewer than two values the interval is the value itself.
    """
    values = np.asarray(values)
    if len(values) < 2:
        point = statistic(values)
        return point, point
    generator = np.random.default_rng(seed)
    picks = generator.integers(len(values), size=(draws, len(values)))
    found = [statistic(values[pick]) for pick in picks]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
