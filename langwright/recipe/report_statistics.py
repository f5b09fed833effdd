"""The parts of a report about what went on inside the model, and about what went wrong."""

from __future__ import annotations

import math
from typing import Any

from langwright.base import chart, folded, heading, heat_map, human_count, paragraph, table
from langwright.recipe.facts import Record

MOST_COLUMNS = 24  # steps in a map
MOST_ROWS = 64  # modules or parameters in a map
INCIDENTS = 50  # lines of the table of spikes


def incidents(records: list[Record]) -> str:
    """Updates that were skipped, and losses that jumped; empty if there were none."""
    found = [r for r in records if r.get("skipped") or r.get("loss_spike")]
    if not found:
        return ""
    skipped = sum(bool(r.get("skipped")) for r in found)
    rows = [
        (
            f"{r['step']:,}",
            "skipped: not finite" if r.get("skipped") else "the loss jumped",
            "" if r.get("loss") is None else f"{r['loss']:.3f}",
            "" if not r.get("loss_spike") else f"{r['loss_spike']:g} deviations",
        )
        for r in found[:INCIDENTS]
    ]
    intro = f"{skipped:,} updates skipped, {len(found) - skipped:,} with a loss far above the last."
    body = table(["step", "what", "loss", "height"], rows, right=[0, 2])
    return heading("Incidents") + paragraph(intro) + folded("Steps", body)


def statistics_maps(records: list[Record]) -> str:
    """Sizes of activations and of updates over the run as maps; empty if none were taken."""
    if not records:
        return ""
    maps = [
        _map(records, "activations", "rms", "Size of activations (root mean square)"),
        _map(records, "parameters", "gradient", "Size of gradients (root mean square)"),
        _map(records, "parameters", "update", "Size of an update, as a share of the weight"),
    ]
    charts = "".join(chart(svg) for svg in maps if svg)
    note = "Darker is larger; the scale is logarithmic, and values stand under the pointer."
    return heading("Inside the model") + paragraph(note) + charts if charts else ""


def _map(records: list[Record], table: str, key: str, title: str) -> str:
    """A row for each module or parameter, a column for each step, shaded by the logarithm."""
    stride = math.ceil(len(records) / MOST_COLUMNS)
    shown = records[::stride]
    names: dict[str, None] = {}
    for record in shown:
        names |= dict.fromkeys(record.get(table) or {})
    rows = _thinned(list(names))
    values = [[_log(_number(record, table, name, key)) for record in shown] for name in rows]
    if not any(math.isfinite(value) for row in values for value in row):
        return ""
    columns = [human_count(record["step"]) for record in shown]
    return heat_map(values, rows, columns, title=title, value_format=_unlogged)


def _unlogged(value: float) -> str:
    return f"{10**value:.3g}"


def _thinned(names: list[str]) -> list[str]:
    """At most so many of them, evenly chosen."""
    if len(names) <= MOST_ROWS:
        return names
    stride = math.ceil(len(names) / MOST_ROWS)
    return names[::stride]


def _number(record: Record, table: str, name: str, key: str) -> Any:
    return ((record.get(table) or {}).get(name) or {}).get(key)


def _log(value: Any) -> float:
    if not isinstance(value, int | float) or not value > 0:
        return math.nan
    return math.log10(value)
