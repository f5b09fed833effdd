"""The common parts of charts: SVG text, the frame, the axes, colours.

Colours are CSS variables with a fallback, so a chart follows the light or dark page it stands in
and also works as a file of its own. Every chart has a title and a description for screen readers,
and every text in it is escaped.
"""

from __future__ import annotations

import hashlib
import html
from dataclasses import dataclass

from langwright.base.axes import Format, Scale, tick_format

# Okabe and Ito's palette, which people with any kind of colour vision can tell apart.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7a7a7a", "#8f5bd0")
INK, MUTED, GRID = "#1c2430", "#66707d", "#e3e7ec"
CHARACTER = 6.4  # mean width in pixels of a character of the 12 pixel font


@dataclass(frozen=True)
class TopAxis:
    """A second x axis above the chart: its value is `factor` times the one below."""

    label: str
    factor: float
    format: Format | None = None


@dataclass(frozen=True)
class Box:
    """The plot area in pixels."""

    left: float
    top: float
    right: float
    bottom: float


def escape(text: object) -> str:
    """Text for HTML or SVG: markup escaped, characters that XML forbids replaced."""
    clean = str(text).encode("utf-8", "replace").decode("utf-8")
    clean = "".join(c if c >= " " or c in "\n\t" else "\ufffd" for c in clean)
    return html.escape(clean, quote=True)


def color(index: int) -> str:
    """CSS colour number `index` of the palette."""
    index %= len(PALETTE)
    return f"var(--c{index}, {PALETTE[index]})"


def chart_id(*parts: str) -> str:
    """An id made from the content: the same data always gives the same page."""
    return (
        "c"
        + hashlib.blake2b("\0".join(parts).encode("utf-8", "replace"), digest_size=6).hexdigest()
    )


def frame(inner: str, title: str, description: str, width: float, height: float) -> str:
    name = chart_id(title, inner)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{name}t {name}d" font-size="12" '
        'font-family="var(--sans, system-ui, sans-serif)">'
        f'<title id="{name}t">{escape(title)}</title>'
        f'<desc id="{name}d">{escape(description or title)}</desc>'
        f'<text x="8" y="16" font-size="13" font-weight="600" fill="var(--ink, {INK})">'
        f"{escape(title)}</text>"
        f"{inner}</svg>"
    )


def empty(title: str, description: str, width: float, height: float) -> str:
    """A chart without data says so."""
    note = text_at(width / 2, height / 2, "no data", "middle", MUTED, "--muted")
    return frame(note, title, description, width, height)


def text_at(
    x: float, y: float, text: object, anchor: str = "start", fill: str = INK, name: str = "--ink"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="var({name}, {fill})">'
        f"{escape(text)}</text>"
    )


def rule(x1: float, y1: float, x2: float, y2: float) -> str:
    place = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {place} stroke="var(--grid, {GRID})"/>'


def axes(
    box: Box,
    x: Scale,
    y: Scale,
    x_label: str,
    y_label: str,
    x_format: Format | None,
    y_format: Format | None,
    top: TopAxis | None,
) -> str:
    """Grid lines, tick labels and axis titles."""
    parts = []
    y_ticks = y.ticks(5)
    y_write = y_format or tick_format(y_ticks)
    for tick in y_ticks:
        parts.append(rule(box.left, y(tick), box.right, y(tick)))
        parts.append(text_at(box.left - 8, y(tick) + 4, y_write(tick), "end", MUTED, "--muted"))
    x_ticks = x.ticks(8 if box.right - box.left > 400 else 4)
    x_write = x_format or tick_format(x_ticks)
    for tick in x_ticks:
        parts.append(rule(x(tick), box.bottom, x(tick), box.bottom + 4))
        parts.append(text_at(x(tick), box.bottom + 18, x_write(tick), "middle", MUTED, "--muted"))
    middle = (box.left + box.right) / 2
    parts.append(text_at(middle, box.bottom + 36, x_label, "middle", MUTED, "--muted"))
    if y_label:
        spot = f"translate(14 {(box.top + box.bottom) / 2:.1f}) rotate(-90)"
        parts.append(
            f'<g transform="{spot}">{text_at(0, 0, y_label, "middle", MUTED, "--muted")}</g>'
        )
    if top is not None:
        parts.append(_top_axis(box, x, top))
    return "".join(parts)


def _top_axis(box: Box, x: Scale, top: TopAxis) -> str:
    above = Scale(x.low * top.factor, x.high * top.factor, x.start, x.end, x.log)
    ticks = above.ticks(6)
    write = top.format or tick_format(ticks)
    parts = [rule(box.left, box.top, box.right, box.top)]
    for tick in ticks:
        parts.append(rule(above(tick), box.top - 4, above(tick), box.top))
        parts.append(text_at(above(tick), box.top - 8, write(tick), "middle", MUTED, "--muted"))
    parts.append(text_at(box.right + 14, box.top - 8, top.label, "start", MUTED, "--muted"))
    return "".join(parts)
