"""Line charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from langwright.base.axes import SMALLEST, Format, Scale, fit_scale, spread, tick_format
from langwright.base.progress import human_count
from langwright.base.svg import (
    CHARACTER,
    Box,
    TopAxis,
    axes,
    chart_id,
    color,
    empty,
    escape,
    frame,
)

HOVERS = 120  # most points of a line that show their value under the pointer
POINTS = 700  # most points drawn of one line


@dataclass(frozen=True)
class Series:
    """One line: `y` over `x`. NaN makes a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    smooth: bool = False  # draw a moving average, with the raw line faint behind it
    dashed: bool = False
    color: int | None = None  # index into the palette; by default the line's own place


def smooth(values: Sequence[float], window: int) -> list[float]:
    """Centred moving average over `window` points, shorter at the ends; NaN is skipped."""
    half = window // 2
    sums, counts = [0.0], [0]
    for value in values:
        good = math.isfinite(value)
        sums.append(sums[-1] + (value if good else 0.0))
        counts.append(counts[-1] + good)
    # A mean lies between them; the difference of two large sums may not.
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    result = []
    for i in range(len(values)):
        reach = min(half, i)  # short at the start, where a loss falls steeply
        first, last = i - reach, min(i + reach + 1, len(values))
        count = counts[last] - counts[first]
        mean = (sums[last] - sums[first]) / max(1, count)
        result.append(min(max(mean, low), high) if count else math.nan)
    return result


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    description: str = "",
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
    clip_start: bool = False,
    top: TopAxis | None = None,
    x_format: Format | None = None,
    y_format: Format | None = None,
    width: int = 840,
    height: int = 320,
) -> str:
    """Lines over a common x axis.

    Args:
        clip_start: let the steep fall at the start of a loss curve run out of the picture, so
            that the rest can be seen.
        top: a second x axis above.
        x_format, y_format: how values are written; chosen from the ticks by default.
    """
    drawn = [_finite(s, log_x, log_y) for s in series]
    drawn = [s for s in drawn if len(s.x)]
    if not drawn:
        return empty(title, description, width, height)
    y_values = [v for s in drawn for v in _shown_range(s, clip_start)]
    ends_format = y_format or _value_format(fit_scale(y_values, 0, 1, log=log_y, zero=from_zero))
    labels = _labels(drawn, ends_format)
    right = max(64, 20 + (CHARACTER + 0.6) * max(map(len, labels)))  # they are bold
    box = Box(62, 34 + (24 if top else 0), width - min(right, width * 0.4), height - 46)
    x = fit_scale((v for s in drawn for v in s.x), box.left, box.right, log=log_x)
    y = fit_scale(y_values, box.bottom, box.top, log=log_y, zero=from_zero, pad=0.04)
    parts = [axes(box, x, y, x_label, y_label, x_format, y_format, top)]
    clip = chart_id(title, repr([(s.name, *s.x[:3], *s.y[-3:]) for s in drawn]), "clip")
    parts.append(
        f'<clipPath id="{clip}"><rect x="{box.left - 3}" y="{box.top - 2}" width='
        f'"{box.right - box.left + 6:.1f}" height="{box.bottom - box.top + 4:.1f}"/></clipPath>'
    )
    x_text = (x_label, x_format or tick_format(x.ticks(8)))
    lines = [_line(s, i, x, y, x_text, ends_format) for i, s in enumerate(drawn)]
    parts.append(f'<g clip-path="url(#{clip})">{"".join(lines)}</g>')
    parts.append(_end_labels(drawn, labels, y, box))
    return frame("".join(parts), title, description, width, height)


def _line(
    series: Series, place: int, x: Scale, y: Scale, x_text: tuple[str, Format], y_write: Format
) -> str:
    """The path of a series, its faint raw form behind it, and the spots that answer the pointer."""
    stroke = color(place if series.color is None else series.color)
    ys = list(series.y)
    parts = []
    if series.smooth and len(ys) > 20:
        parts.append(
            _path(series.x, ys, x, y, f'stroke="{stroke}" stroke-width="1" opacity="0.22"')
        )
        ys = smooth(ys, max(3, len(ys) // 25))
    dash = ' stroke-dasharray="5 4"' if series.dashed else ""
    style = f'stroke="{stroke}" stroke-width="2" stroke-linejoin="round"{dash}'
    parts.append(_path(series.x, ys, x, y, style))
    few = len(ys) <= 40
    x_name, x_write = x_text
    for i in range(0, len(ys), max(1, math.ceil(len(ys) / HOVERS))):
        if not math.isfinite(ys[i]):
            continue
        spot = f'cx="{x(series.x[i]):.1f}" cy="{y(ys[i]):.1f}"'
        hover = f"{series.name}: {y_write(ys[i])} at {x_name} {x_write(series.x[i])}"
        if few:
            parts.append(f'<circle {spot} r="2.5" fill="{stroke}"/>')
        parts.append(
            f'<circle {spot} r="7" fill="transparent"><title>{escape(hover)}</title></circle>'
        )
    return "".join(parts)


def _path(xs: Sequence[float], ys: Sequence[float], x: Scale, y: Scale, style: str) -> str:
    """An open path through the points, thinned to what the eye can see; NaN lifts the pen."""
    commands, pen_down = [], False
    for i in _thin(ys):
        if not math.isfinite(ys[i]):
            pen_down = False
            continue
        commands.append(f"{'L' if pen_down else 'M'}{x(xs[i]):.1f} {y(ys[i]):.1f}")
        pen_down = True
    return f'<path d="{"".join(commands)}" fill="none" {style}/>'


def _thin(ys: Sequence[float]) -> list[int]:
    """Indices to draw: all of them, or the lowest and the highest of each small stretch."""
    if len(ys) <= POINTS:
        return list(range(len(ys)))
    stretch = math.ceil(2 * len(ys) / POINTS)
    kept = {0, len(ys) - 1}
    for start in range(0, len(ys), stretch):
        part = range(start, min(start + stretch, len(ys)))
        kept.update((min(part, key=lambda i: ys[i]), max(part, key=lambda i: ys[i])))
    return sorted(kept)


def _finite(series: Series, log_x: bool, log_y: bool) -> Series:
    """The series without points that cannot be placed; unplaceable y become gaps."""
    points = [
        (float(a), float(b) if math.isfinite(b) and (b > SMALLEST or not log_y) else math.nan)
        for a, b in zip(series.x, series.y)
        if math.isfinite(a) and (a > SMALLEST or not log_x)
    ]
    points.sort(key=lambda point: point[0])
    if not any(math.isfinite(b) for _, b in points):
        points = []
    xs, ys = [a for a, _ in points], [b for _, b in points]
    return Series(series.name, xs, ys, series.smooth, series.dashed, series.color)


def _shown_range(series: Series, clip_start: bool) -> list[float]:
    """The y values that the picture must hold."""
    ys = list(series.y)
    if series.smooth and len(ys) > 20:
        ys = smooth(ys, max(3, len(ys) // 25))
    if clip_start:
        ys = ys[min(len(ys) - 1, round(len(ys) * 0.04)) :]
    return ys


def _value_format(scale: Scale) -> Format:
    """Three or four digits; what is as good as zero on this scale is written as 0."""
    largest = max(abs(scale.low), abs(scale.high))
    if largest >= 10_000:
        return human_count
    zero = 0.0 if scale.log else 1e-4 * largest
    return lambda value: "0" if abs(value) < zero else f"{value:.4g}"


def _last(series: Series) -> float:
    """The value a line ends at, as it is drawn."""
    ys = series.y
    if series.smooth and len(ys) > 20:
        ys = smooth(ys, max(3, len(ys) // 25))
    return next(v for v in reversed(ys) if math.isfinite(v))


def _labels(series: Sequence[Series], write: Format) -> list[str]:
    """The last value of each line, with its name where there are several."""
    ends = [write(_last(s)) for s in series]
    return [f"{s.name} {end}" for s, end in zip(series, ends)] if len(series) > 1 else ends


def _end_labels(series: Sequence[Series], labels: Sequence[str], y: Scale, box: Box) -> str:
    """Each label beside the end of its line, moved apart where they would overlap."""
    ends = [min(max(y(_last(s)), box.top), box.bottom) for s in series]
    parts = []
    for i, (s, place) in enumerate(zip(series, spread(ends, 16, box.top, box.bottom))):
        stroke = color(i if s.color is None else s.color)
        parts.append(
            f'<line x1="{box.right + 2:.1f}" y1="{ends[i]:.1f}" x2="{box.right + 10:.1f}" '
            f'y2="{place:.1f}" stroke="{stroke}" opacity="0.6"/>'
            f'<text x="{box.right + 13:.1f}" y="{place + 4:.1f}" font-weight="600" '
            f'fill="{stroke}">{escape(labels[i])}</text>'
        )
    return "".join(parts)
