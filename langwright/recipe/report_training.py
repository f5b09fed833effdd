"""The parts of a report about training: curves, speed, choices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from langwright.base import (
    Section,
    Series,
    TopAxis,
    chart,
    folded,
    heading,
    human_count,
    human_seconds,
    line_chart,
    side_by_side,
    table,
    tabs,
)
from langwright.recipe.facts import Facts, Record
from langwright.recipe.report_statistics import incidents, statistics_maps

HALF: dict[str, Any] = {"width": 410, "height": 240}


def training_section(facts: Facts, stage: str, title: str) -> Section | None:
    """Loss over steps, tokens and time; learning rate, gradient norm, speed; choices made."""
    records = facts.training.get(stage) or []
    updates = [r for r in records if r.get("loss") is not None and "step" in r]
    if not updates:
        return None
    body = loss_curves(records, updates)
    body += side_by_side(*_small_charts(updates))
    body += incidents(records) + statistics_maps(facts.statistics.get(stage) or [])
    body += _choices(facts.choices.get(stage) or {})
    last = updates[-1]
    intro = f"{last['step']:,} updates"
    if last.get("tokens"):
        intro += f", {human_count(last['tokens'])} tokens"
    if last.get("seconds"):
        intro += f", {human_seconds(last['seconds'])}"
    return Section(title, body, intro + ".")


def loss_curves(records: list[Record], updates: list[Record]) -> str:
    """Training and validation loss over steps (tokens above), tokens, and time."""
    last = updates[-1]
    top = None
    if last.get("tokens") and last["step"]:
        top = TopAxis("tokens", last["tokens"] / last["step"], human_count)
    panels = [("by step", _loss_chart(records, updates, "step", "step", top))]
    if last.get("tokens"):
        panels.append(("by tokens", _loss_chart(records, updates, "tokens", "tokens")))
    if last.get("seconds"):
        panels.append(("by time", _loss_chart(records, updates, "seconds", "time")))
    return tabs(panels)


def valid_names(records: list[Record]) -> list[str]:
    """The validation losses in the records; the one over all sets only where it is the only one."""
    names = {
        key for r in records for key, value in r.items() if _is_validation(key) and _number(value)
    }
    return sorted(names - {"valid_loss"}) or sorted(names)


def _is_validation(key: str) -> bool:
    return key.startswith("valid_") and not key.endswith(("_perplexity", "_bits_per_byte"))


def _loss_chart(
    records: list[Record], updates: list[Record], axis: str, label: str, top: TopAxis | None = None
) -> str:
    series = [_series("training", updates, axis, "loss", smooth=True)]
    for name in valid_names(records):
        shown = name.removeprefix("valid_").removesuffix("_loss").replace("_", " ")
        shown = "validation" if shown == "loss" else f"validation, {shown}"
        series.append(_series(shown, records, axis, name))
    ends = "; ".join(f"{s.name} ends at {s.y[-1]:.3f}" for s in series if s.y)
    is_time = axis == "seconds"
    svg = line_chart(
        series,
        title="Loss",
        description=f"Loss in nats per token by {label}: {ends}.",
        x_label=label,
        y_label="nats per token",
        clip_start=True,
        top=top,
        x_format=human_seconds if is_time else human_count,
        y_format=None,
    )
    return chart(svg)


def _small_charts(updates: list[Record]) -> list[str]:
    """Learning rate, gradient norm, speed, share of the machine's peak: those that were logged."""
    wanted: list[tuple[str, str, dict[str, Any], Callable[[float], float]]] = [
        ("lr", "Learning rate", {"from_zero": True}, float),
        ("grad_norm", "Gradient norm before clipping", {"clip_start": True}, float),
        ("tokens_per_second", "Tokens per second", {"from_zero": True}, float),
        (
            "mfu",
            "Share of the measured matmul peak, %",
            {"from_zero": True},
            lambda share: 100 * share,
        ),
    ]
    charts = []
    for index, (key, title, options, scale) in enumerate(wanted):
        series = _series(title, updates, "step", key, smooth=key != "lr", scale=scale, color=index)
        if series.y:
            svg = line_chart([series], title=title, x_label="step", **options, **HALF)
            charts.append(svg)
    return charts


def _series(
    name: str,
    records: list[Record],
    axis: str,
    key: str,
    *,
    smooth: bool = False,
    scale: Callable[[float], float] = float,
    color: int | None = None,
) -> Series:
    points = [
        (float(r[axis]), scale(r[key]))
        for r in records
        if _number(r.get(key)) and _number(r.get(axis))
    ]
    return Series(name, [a for a, _ in points], [b for _, b in points], smooth=smooth, color=color)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _choices(choices: dict[str, Any]) -> str:
    """What was decided automatically, with the reasons."""
    rows = [
        (name.replace("_", " "), _short(one.get("value")), one.get("reason", ""))
        for name, one in choices.items()
        if isinstance(one, dict)
    ]
    if not rows:
        return ""
    found = table(["choice", "value", "because"], rows)
    title = "Chosen automatically"
    return heading(title) + found if len(rows) <= 12 else folded(title, found)


def _short(value: Any) -> str:
    text = f"{value:,.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 80 else text[:79] + "…"
