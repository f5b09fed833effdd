"""The parts of a report about text: the corpus and the tokenizer."""

from __future__ import annotations

from typing import Any

from langwright.base import (
    Bar,
    Section,
    bar_chart,
    chart,
    folded,
    heading,
    human_bytes,
    human_count,
    preformatted,
    table,
)
from langwright.recipe.facts import Facts


def tokenizer_section(facts: Facts) -> Section | None:
    """How well the vocabulary fits each kind of text."""
    measured = facts.efficiency.get("valid") or {}
    rows = [
        [
            name,
            f"{one['tokens']:,}",
            _number(one.get("bytes_per_token"), 2),
            _number(one.get("tokens_per_word"), 2),
            _share(one.get("vocabulary_used")),
            _share(one.get("unknown_share")),
        ]
        for name, one in measured.items()
        if one.get("tokens")
    ]
    if not rows:
        return None
    headers = ["kind of text", "tokens", "bytes per token", "tokens per word"]
    headers += ["vocabulary used", "unknown"]
    bars = [
        Bar(name, one["bytes_per_token"]) for name, one in measured.items() if one.get("tokens")
    ]
    svg = bar_chart(
        bars,
        title="Bytes per token on held-out text",
        description="More bytes per token: a longer view and less work for the same text.",
        value_format=lambda value: f"{value:.2f}",
    )
    about = facts.efficiency.get("tokenizer") or {}
    intro = f"{about.get('kind', '')}, {about.get('vocab_size', 0):,} ids.".strip(", ")
    return Section("Tokenizer", chart(svg) + table(headers, rows, right=range(1, 6)), intro)


def corpus_section(facts: Facts) -> Section | None:
    """Documents and tokens per source and split; what was left out."""
    body = _dataset_table(facts)
    skipped = facts.corpus.get("skipped") or facts.corpus.get("drops") or {}
    rows = [
        (reason, f"{one.get('count', 0):,}", _first(one.get("examples")))
        for reason, one in skipped.items()
        if isinstance(one, dict)
    ]
    if rows:
        body += heading("Left out") + table(["reason", "count", "for example"], rows, right=[1])
    mix = facts.metrics("dataset").get("training") or {}
    if mix:
        shares = [
            (name, f"{one.get('rows', 0):,}", _share(one.get("share")), _share(one.get("fill")))
            for name, one in mix.items()
        ]
        body += heading("Training rows")
        headers = ["source", "rows in one pass", "share of the mix", "filled with text"]
        body += table(headers, shares, right=[1, 2, 3])
    if facts.corpus:
        body += folded("The corpus report in full", preformatted(_outline(facts.corpus)))
    return Section("Text", body) if body else None


def _dataset_table(facts: Facts) -> str:
    splits = facts.metrics("dataset").get("splits") or {}
    rows: list[list[str]] = [
        [
            source,
            split,
            f"{one.get('documents', 0):,}",
            human_bytes(one.get("text_bytes", 0)),
            human_count(one.get("tokens", 0)),
        ]
        for split, by_source in splits.items()
        for source, one in by_source.items()
    ]
    rows.sort(key=lambda row: row[0])  # keeps train, valid, test in their order
    headers = ["source", "split", "documents", "text", "tokens"]
    return table(headers, rows, right=[2, 3, 4]) if rows else ""


def _outline(value: Any, indent: int = 0) -> str:
    """Nested data as indented lines."""
    pad = "  " * indent
    if isinstance(value, dict):
        lines = []
        for key, inner in value.items():
            if isinstance(inner, dict | list) and inner:
                lines.append(f"{pad}{key}:\n{_outline(inner, indent + 1)}")
            else:
                lines.append(f"{pad}{key}: {inner}")
        return "\n".join(lines)
    if isinstance(value, list):
        return "\n".join(_outline(inner, indent) for inner in value)
    return f"{pad}{value}"


def _first(examples: Any) -> str:
    return str(examples[0]) if examples else ""


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
