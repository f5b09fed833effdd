"""A comparison of two runs as text, and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from langwright.base import Section, Series, chart, line_chart, page, table
from langwright.recipe.compare import NORM, Comparison, Difference, Training

SHOWN = 20  # settings that differ
HEADERS = ["", "values", "largest difference", "at", "mean difference", "parts at", "verdict"]


def comparison_text(comparison: Comparison) -> str:
    """What agrees, where the runs part, and what was set otherwise."""
    parts = [_title(comparison), _figures(comparison), verdict(comparison)]
    for text in (
        _rate_note(comparison),
        _weights(comparison),
        _speed(comparison),
        _settings(comparison),
    ):
        if text:
            parts.append(text)
    return "\n\n".join(parts)


def comparison_page(comparisons: Sequence[Comparison]) -> str:
    """The same with curves, as an HTML page."""
    sections = []
    for one in comparisons:
        rows = [_row(quantity, one.axis) for quantity in one.quantities]
        body = table(HEADERS, rows, right=[1, 2, 3, 4]) + _curves(one)
        if one.settings:
            settings = [(name, _short(a), _short(b)) for name, a, b in one.settings]
            body += table(["setting", "first", "second"], settings)
        sections.append(Section(one.first.stage, body, verdict(one)))
    names = f"{comparisons[0].first.folder} and {comparisons[0].second.folder}"
    return page("Two runs", sections, subtitle=names)


def verdict(comparison: Comparison) -> str:
    """One sentence: they agree, or where they part."""
    if comparison.agree:
        same = all(quantity.unequal is None for quantity in comparison.quantities)
        return "The runs agree" + (", to the bit." if same else ".")
    if comparison.parting is None:
        names = ", ".join(_readable(q) for q in comparison.quantities if not q.agrees)
        return (
            f"The runs do not agree: no single value of {names} is far off, but the differences "
            "point the same way, as a wrong factor makes them."
        )
    quantity, index = comparison.parting
    place = quantity.places[index]
    a, b = _figure(quantity.first[index]), _figure(quantity.second[index])
    text = f"The runs part at {_place(place, comparison.axis)}: {_readable(quantity)} {a} and {b}."
    if index == 0:
        text += " They never agreed: other data, weights or settings."
    elif (first := quantity.unequal) is not None and first < index:
        text += (
            f" The first difference of all is at {_place(quantity.places[first], comparison.axis)}."
        )
    return text


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain JSON."""
    return {
        "stage": comparison.first.stage,
        "first": str(comparison.first.folder),
        "second": str(comparison.second.folder),
        "agree": comparison.agree,
        "verdict": verdict(comparison),
        "axis": comparison.axis,
        "missing": list(comparison.missing),
        "quantities": [_quantity_json(quantity) for quantity in comparison.quantities],
        "settings": [list(one) for one in comparison.settings],
        "weights": None if comparison.weights is None else vars(comparison.weights),
    }


def _quantity_json(quantity: Difference) -> dict[str, Any]:
    parted = quantity.parted
    largest = quantity.largest
    return {
        "name": quantity.name,
        "values": len(quantity.places),
        "largest": largest if largest < float("inf") else None,
        "mean": quantity.mean,
        "mean_error": quantity.mean_error,
        "limits": list(quantity.limits),
        "parts_at": None if parted is None else quantity.places[parted],
        "agrees": quantity.agrees,
    }


def _title(comparison: Comparison) -> str:
    first, second = comparison.first, comparison.second
    limits = comparison.tolerance
    lines = [
        f"{first.folder} against {second.folder}",
        f"  limits: {limits.largest:g} nats, {limits.mean:g} in the mean; "
        f"gradient norm {limits.norm:g} of itself",
    ]
    for folder, count in zip((first.folder, second.folder), comparison.missing):
        if count:
            lines.append(f"  {count:,} updates are in {folder} only")
    return "\n".join(lines)


def _figures(comparison: Comparison) -> str:
    rows = [HEADERS, *([*_row(q, comparison.axis)] for q in comparison.quantities)]
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(HEADERS))]
    lines = []
    for row in rows:
        cells = [str(row[0]).ljust(widths[0])]
        cells += [str(cell).rjust(width) for cell, width in zip(row[1:-1], widths[1:-1])]
        lines.append("  " + "  ".join([*cells, str(row[-1])]).rstrip())
    return "\n".join(lines)


def _row(quantity: Difference, axis: str) -> list[str]:
    sizes = [_size(a, b) for a, b in zip(quantity.first, quantity.second)]
    at = quantity.places[max(range(len(sizes)), key=sizes.__getitem__)]
    error = quantity.mean_error
    spread = "" if error is None else f" ± {error:.1g}"
    parted = quantity.parted
    return [
        _readable(quantity),
        f"{len(quantity.places):,}",
        f"{quantity.largest:.3g}",
        f"{at:,}" if quantity.largest else "-",
        f"{quantity.mean:+.2g}{spread}",
        "never" if parted is None else _place(quantity.places[parted], axis),
        "agrees" if quantity.agrees else "differs",
    ]


def _size(a: float | None, b: float | None) -> float:
    if a is None or b is None:
        return 0.0 if a is b else float("inf")
    return abs(a - b)


def _rate_note(comparison: Comparison) -> str:
    place = comparison.other_rate
    if place is None:
        return ""
    return f"Learning rates differ from {_place(place, comparison.axis)} on"


def _weights(comparison: Comparison) -> str:
    found = comparison.weights
    if found is None:
        return ""
    if found.strange:
        return f"Weights: another model; for one, {found.strange[0]} has no counterpart"
    if not found.unequal:
        return f"Weights: all {found.tensors} tensors are the same to the bit"
    return (
        f"Weights: {found.unequal} of {found.tensors} tensors differ, by {found.largest:.3g} at "
        f"most, {100 * found.relative:.3g} % of their norm; most of all {found.worst}"
    )


def _speed(comparison: Comparison) -> str:
    rates = [_rate(run) for run in (comparison.first, comparison.second)]
    if None in rates:
        return ""
    a, b = (rate or 1.0 for rate in rates)
    return f"Speed: {a:,.0f} and {b:,.0f} tokens/s (median), {b / a:.2f} times"


def _rate(run: Training) -> float | None:
    rates = [r["tokens_per_second"] for r in run.updates if r.get("tokens_per_second")]
    return median(rates) if rates else None


def _settings(comparison: Comparison) -> str:
    if not comparison.settings:
        return ""
    shown = comparison.settings[:SHOWN]
    width = max(len(name) for name, _, _ in shown)
    lines = ["Set otherwise"]
    lines += [f"  {name:<{width}}  {_short(a)}  ->  {_short(b)}" for name, a, b in shown]
    more = len(comparison.settings) - len(shown)
    return "\n".join(lines + ([f"  ... and {more} more"] if more > 0 else []))


def _curves(comparison: Comparison) -> str:
    """Both loss curves, and the size of their difference."""
    loss = comparison.quantities[0]
    both = [
        Series(name, [float(p) for p, v in zip(loss.places, values) if v is not None],
               [v for v in values if v is not None], smooth=True)
        for name, values in (("first", loss.first), ("second", loss.second))
    ]  # fmt: skip
    apart = [
        (float(place), abs(a - b))
        for place, a, b in zip(loss.places, loss.first, loss.second)
        if a is not None and b is not None and a != b
    ]
    svg = line_chart(
        both, title="Loss", x_label=comparison.axis, y_label="nats per token", clip_start=True
    )
    if not apart:
        return chart(svg)
    difference = Series("difference", [x for x, _ in apart], [y for _, y in apart])
    return chart(svg) + chart(
        line_chart(
            [difference],
            title="Absolute difference of the loss",
            x_label=comparison.axis,
            y_label="nats per token",
            log_y=True,
        )
    )


def _readable(quantity: Difference) -> str:
    name = quantity.name.replace("_", " ").replace("grad norm", "gradient norm")
    return f"{name} (relative)" if quantity.name == NORM else name


def _place(place: int, axis: str) -> str:
    return f"step {place:,}" if axis == "step" else f"{place:,} tokens"


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.7g}"


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else text[:39] + "…"
