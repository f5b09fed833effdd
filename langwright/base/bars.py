"""Bars, histograms and heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from langwright.base.axes import Format, Scale, fit_scale, tick_format
from langwright.base.svg import (
    CHARACTER,
    INK,
    MUTED,
    Box,
    axes,
    color,
    empty,
    escape,
    frame,
    rule,
    text_at,
)


@dataclass(frozen=True)
class Bar:
    """One bar: `low` and `high` are the ends of its error bar."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    highlight: bool = False


def bar_chart(
    bars: Sequence[Bar],
    *,
    title: str,
    description: str = "",
    x_label: str = "",
    value_format: Format | None = None,
    width: int = 840,
) -> str:
    """Horizontal bars with their labels, values and error bars."""
    height = 36 + 34 * len(bars) + (34 if x_label else 14)
    if not bars:
        return empty(title, description, width, 80)
    write = value_format or (lambda value: f"{value:.3g}")
    left = 24 + CHARACTER * min(34, max(len(b.label) for b in bars))
    values = [v for b in bars for v in (b.value, b.low, b.high) if v is not None]
    room = CHARACTER * max(len(write(b.value) + b.note) + 4 for b in bars)
    x = fit_scale(values, left, max(left + 80, width - room - 20), zero=True)
    bottom = 30 + 34 * len(bars)
    parts = []
    ticks = x.ticks(5)
    for tick in ticks:
        parts.append(rule(x(tick), 26, x(tick), bottom))
        parts.append(
            text_at(x(tick), bottom + 16, tick_format(ticks)(tick), "middle", MUTED, "--muted")
        )
    for i, bar in enumerate(bars):
        parts.append(_one_bar(bar, 30 + 34 * i, x, write, left))
    if x_label:
        parts.append(text_at((left + x.end) / 2, bottom + 34, x_label, "middle", MUTED, "--muted"))
    return frame("".join(parts), title, description, width, height)


def _one_bar(bar: Bar, top: float, x: Scale, write: Format, left: float) -> str:
    """A bar, its label to the left, its value to the right, its error bar across its end."""
    fill = color(0) if bar.highlight else f"var(--bar, {MUTED})"
    start, end = sorted((x(0.0), x(bar.value)))
    weight = ' font-weight="600"' if bar.highlight else ""
    label = bar.label if len(bar.label) <= 34 else bar.label[:33] + "…"
    hover = f"{bar.label}: {write(bar.value)}"
    reach = end
    whisker = ""
    if bar.low is not None and bar.high is not None:
        a, b, middle = x(bar.low), x(bar.high), top + 12
        hover += f" ({write(bar.low)} to {write(bar.high)})"
        reach = max(end, b)
        whisker = (
            f'<path d="M{a:.1f} {middle}H{b:.1f}M{a:.1f} {middle - 5}V{middle + 5}'
            f'M{b:.1f} {middle - 5}V{middle + 5}" fill="none" stroke-width="1.4" '
            f'stroke="var(--ink, {INK})"/>'
        )
    value = escape(write(bar.value)) + (f" {escape(bar.note)}" if bar.note else "")
    return (
        f'<text x="{left - 10:.1f}" y="{top + 16}" text-anchor="end"{weight} '
        f'fill="var(--ink, {INK})">{escape(label)}</text>'
        f'<rect x="{start:.1f}" y="{top}" width="{max(1.0, end - start):.1f}" height="24" rx="3" '
        f'fill="{fill}"><title>{escape(hover)}</title></rect>{whisker}'
        f'<text x="{reach + 8:.1f}" y="{top + 16}"{weight} fill="var(--ink, {INK})">{value}</text>'
    )


def histogram(
    edges: Sequence[float],
    counts: Sequence[float],
    *,
    title: str,
    description: str = "",
    x_label: str = "",
    y_label: str = "count",
    log_x: bool = False,
    width: int = 410,
    height: int = 240,
) -> str:
    """Counts between `edges` (one more edge than counts)."""
    if not counts or len(edges) != len(counts) + 1:
        return empty(title, description, width, height)
    box = Box(62, 28, width - 16, height - 46)
    positive = [e for e in edges if e > 0]
    x = fit_scale(positive if log_x else edges, box.left, box.right, log=log_x)
    y = fit_scale(counts, box.bottom, box.top, zero=True, pad=0.04)
    x_format = tick_format(x.ticks(6))
    parts = [axes(box, x, y, x_label, y_label, x_format, None, None)]
    for low, high, count in zip(edges, edges[1:], counts):
        start = x(max(low, x.low))
        wide = max(0.5, x(high) - start - 1)
        hover = f"{x_format(low)} to {x_format(high)}: {count:,.0f}"
        parts.append(
            f'<rect x="{start + 0.5:.1f}" y="{y(count):.1f}" width="{wide:.1f}" '
            f'height="{max(0.0, box.bottom - y(count)):.1f}" fill="{color(0)}" opacity="0.85">'
            f"<title>{escape(hover)}</title></rect>"
        )
    return frame("".join(parts), title, description, width, height)


def heat_map(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    title: str,
    description: str = "",
    value_format: Format | None = None,
    width: int = 840,
) -> str:
    """A table of numbers as shades; each cell tells its value under the pointer."""
    write = value_format or (lambda value: f"{value:.3g}")
    left = 16 + CHARACTER * max((len(r) for r in rows), default=0)
    cell = max(6.0, min(48.0, (width - left - 16) / max(1, len(columns))))
    high = min(28.0, cell)
    good = [v for row in values for v in row if math.isfinite(v)]
    low_value, high_value = (min(good), max(good)) if good else (0.0, 1.0)
    parts = []
    for r, row in enumerate(values):
        top = 34 + r * high
        parts.append(text_at(left - 8, top + high / 2 + 4, rows[r], "end", MUTED, "--muted"))
        for c, value in enumerate(row):
            share = (value - low_value) / ((high_value - low_value) or 1.0)
            opacity = 0.06 + 0.94 * share if math.isfinite(value) else 0.0
            parts.append(
                f'<rect x="{left + c * cell:.1f}" y="{top:.1f}" width="{cell - 1:.1f}" '
                f'height="{high - 1:.1f}" fill="{color(0)}" fill-opacity="{opacity:.3f}">'
                f"<title>{escape(f'{rows[r]}, {columns[c]}: {write(value)}')}</title></rect>"
            )
    every = max(1, math.ceil(CHARACTER * max((len(c) for c in columns), default=1) / cell))
    for c in range(0, len(columns), every):
        parts.append(text_at(left + (c + 0.5) * cell, 26, columns[c], "middle", MUTED, "--muted"))
    return frame("".join(parts), title, description, width, round(46 + high * len(rows)))
