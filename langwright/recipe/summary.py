"""What came out of a run, as text for a terminal."""

from __future__ import annotations

import shlex
import textwrap
from pathlib import Path

from langwright.base import human_seconds
from langwright.recipe.facts import Facts, read_facts

WIDTH = 96


def summary_text(folder: Path) -> str:
    """Losses, bits per byte beside the classics, answers, times and what to type next."""
    facts = read_facts(folder)
    parts = [_quality(facts), _losses(facts), _questions(facts), _times(facts), _next(facts)]
    return "\n\n".join(part for part in parts if part)


def _quality(facts: Facts) -> str:
    """Bits per byte of the model and of the classics."""
    row = facts.headline.get("model")
    if not row:
        return ""
    source, split = facts.headline.get("source"), facts.headline.get("split")
    error = ""
    if row.get("low") is not None and row.get("high") is not None:
        error = f"± {(row['high'] - row['low']) / 2:.3f}"
    lines = [f"Bits per byte on held-out text ({source}, {split} split; less is better)"]
    lines.append(f"  {'this model':<20} {row['bits_per_byte']:6.3f} {error}")
    classics = facts.classics()
    lines += [f"  {name:<20} {value:6.3f}" for name, value in classics.items()]
    if classics:
        below = row["bits_per_byte"] < min(classics.values())
        verdict = "better than" if below else "not better than"
        lines.append(f"  The model is {verdict} the best of the classics.")
    return "\n".join(lines)


def _losses(facts: Facts) -> str:
    rows = facts.evaluation.get("losses", [])
    if not rows:
        return ""
    lines = ["Loss per token of held-out text"]
    for row in rows:
        error = row.get("standard_error")
        spread = f" ± {1.96 * error:.3f}" if error is not None else ""
        perplexity = row.get("perplexity")
        shown = f", perplexity {perplexity:,.1f}" if perplexity is not None else ""
        label = f"{row['model']}, {row['source']}, {row['split']}"
        lines.append(f"  {label:<42} {row['nats_per_token']:.3f} nats{spread}{shown}")
    return "\n".join(lines)


def _questions(facts: Facts) -> str:
    shown = facts.evaluation.get("questions", {}).get("shown", [])
    if not shown:
        return ""
    lines = ["Questions about things it was not trained to answer"]
    for one in shown:
        lines.append(_wrapped("  Q: ", one.get("question", "")))
        lines.append(_wrapped("  A: ", one.get("answer", "") or "(nothing)"))
        lines.append(_wrapped("  (docs: ", one.get("reference", "")) + ")")
        lines.append("")
    return "\n".join(lines).rstrip()


def _times(facts: Facts) -> str:
    parts = [f"{name} {human_seconds(m.seconds)}" for name, m in facts.manifests.items()]
    return "Time: " + ", ".join(parts) + f"; together {human_seconds(facts.seconds)}"


def _next(facts: Facts) -> str:
    model, report = facts.folder / "model", facts.folder / "report.html"
    lines = [f"Model:   {model}", f"Report:  {report}"]
    place = shlex.quote(str(model))
    if "sft" in facts.manifests:
        lines.append(f"Chat:    langwright chat {place}")
    lines.append(f'Write:   langwright generate {place} "Once"')
    return "\n".join(lines)


def _wrapped(start: str, text: str) -> str:
    """At most four lines of `text` behind `start`."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return textwrap.fill(
        clean,
        width=WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        max_lines=4,
        placeholder=" …",
    )
