"""The parts of a report that say how good the model is."""

from __future__ import annotations

from typing import Any

from langwright.base import (
    Bar,
    Section,
    bar_chart,
    chart,
    conversation,
    folded,
    heading,
    paragraph,
    table,
)
from langwright.recipe.facts import CLASSICS, Facts

ABOUT_BITS = (
    "Bits per byte says how many bits the model needs for each byte of text it has never seen: "
    "less is better. The classic compressors and a byte 5-gram model were given the same training "
    "text."
)


def quality_section(facts: Facts) -> Section | None:
    """Bits per byte beside the classics, losses, and how much is learnt by heart."""
    row = facts.headline.get("model")
    if not row:
        return None
    source, split = facts.headline.get("source"), facts.headline.get("split")
    bars = [_bar("this model", row, highlight=True)]
    bars += [Bar(name, value) for name, value in facts.classics().items()]
    svg = bar_chart(
        bars,
        title=f"Bits per byte of {source}, {split} split",
        description="; ".join(f"{bar.label} {bar.value:.3f}" for bar in bars),
        x_label="bits per byte (less is better)",
        value_format=lambda value: f"{value:.3f}",
    )
    body = chart(svg) + _scopes(facts) + heading("Loss per token") + _losses(facts)
    body += _notes(facts)
    return Section("How good it is", body, ABOUT_BITS)


def questions_section(facts: Facts) -> Section | None:
    """Answers to questions that were held out."""
    asked = facts.evaluation.get("questions") or {}
    if not asked.get("shown"):
        return None
    turns = []
    for one in asked["shown"]:
        turns.append(("user", "question", one.get("question", "")))
        ended = "" if one.get("ended", True) else ", cut off at the limit"
        turns.append(("assistant", f"the model{ended}", one.get("answer", "")))
        turns.append(("reference", "the documentation", one.get("reference", "")))
    body = conversation(turns) + _scores(asked)
    intro = "About things whose questions and answers were kept out of training."
    return Section("Questions it had not seen", body, intro)


def samples_section(facts: Facts, most: int) -> Section | None:
    """Texts the model wrote at the end, and on the way."""
    samples = facts.evaluation.get("samples") or []
    body = ""
    for one in samples[:most]:
        prompt = one.get("prompt") or ""
        turns = [("user", "beginning", prompt)] if prompt else []
        who = "continued by the model" if prompt else "written from nothing"
        body += conversation([*turns, ("assistant", who, one.get("text", ""))])
    on_the_way = _samples_over_time(facts)
    if on_the_way:
        body += heading("While it was learning") + on_the_way
    return Section("What it writes", body) if body else None


def _samples_over_time(facts: Facts) -> str:
    """The samples drawn during training, by step."""
    turns = []
    for record in facts.training.get("pretrain", []):
        texts = record.get("samples", record.get("sample"))
        if texts is None:
            continue
        for text in texts if isinstance(texts, list) else [texts]:
            turns.append(("assistant", f"step {record.get('step', 0):,}", _sample_text(text)))
    if len(turns) <= 4:
        return conversation(turns) if turns else ""
    chosen = [turns[round(i * (len(turns) - 1) / 3)] for i in range(4)]
    return conversation(chosen) + folded(f"All {len(turns)}", conversation(turns))


def _sample_text(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value.get('prompt', '')}{value.get('text', '')}"
    return str(value)


def _bar(label: str, row: dict[str, Any], highlight: bool = False) -> Bar:
    return Bar(label, row["bits_per_byte"], row.get("low"), row.get("high"), highlight=highlight)


def _scopes(facts: Facts) -> str:
    """Bits per byte for each source and for the whole, a column for each classic."""
    scopes = facts.evaluation.get("bits_per_byte") or {}
    names = [name for name in CLASSICS if any(name in row for row in scopes.values())]
    rows = []
    for scope, row in scopes.items():
        model = row.get("model", {})
        cells: list[object] = [scope, f"{model.get('bytes', 0):,}", _with_error(model)]
        for name in names:
            value = row.get(name, {}).get("bits_per_byte")
            cells.append("" if value is None else f"{value:.3f}")
        rows.append(cells)
    headers = ["held-out text", "bytes", "this model", *(CLASSICS[name] for name in names)]
    return table(headers, rows, right=range(1, len(headers))) if rows else ""


def _with_error(row: dict[str, Any]) -> str:
    if row.get("bits_per_byte") is None:
        return ""
    if row.get("low") is None or row.get("high") is None:
        return f"{row['bits_per_byte']:.3f}"
    return f"{row['bits_per_byte']:.3f} ± {(row['high'] - row['low']) / 2:.3f}"


def _losses(facts: Facts) -> str:
    """Every loss with its 95 % interval and perplexity."""
    rows = []
    for row in facts.evaluation.get("losses", []):
        error = row.get("standard_error")
        spread = "" if error is None else f" ± {1.96 * error:.3f}"
        perplexity = row.get("perplexity")
        rows.append(
            [
                row.get("model", ""),
                row.get("source", ""),
                row.get("split", ""),
                f"{row.get('tokens', 0):,}",
                f"{row['nats_per_token']:.3f}{spread}",
                "" if perplexity is None else f"{perplexity:,.1f}",
            ]
        )
    headers = ["model", "source", "split", "tokens", "nats per token", "perplexity"]
    return table(headers, rows, right=[3, 4, 5])


def _notes(facts: Facts) -> str:
    """Copies of training text, and how often the test split was looked at."""
    notes = []
    copies = facts.evaluation.get("memorisation") or {}
    if copies.get("samples"):
        held_out = copies.get("held_out") or {}
        beside = f"; of held-out text it is {held_out['share']:.1%}" if held_out else ""
        notes.append(
            f"{copies['samples'].get('share', 0.0):.1%} of what the model wrote stands word for "
            f"word in the training text, in stretches of {copies.get('length')} bytes or more"
            f"{beside}."
        )
    looks = (facts.evaluation.get("test_split") or {}).get("times_measured", 0)
    if looks:
        times = "once" if looks == 1 else f"{looks} times; only the first look is unbiased"
        notes.append(f"The test split has been measured {times}.")
    return "".join(paragraph(note, quiet=True) for note in notes)


def _scores(asked: dict[str, Any]) -> str:
    """F1 of the answers and loss on the right ones."""
    rows = []
    labels = {
        "f1": "word overlap with the documentation (F1)",
        "chance_f1": "the same by chance (another question's answer)",
        "ended": "answers that ended by themselves",
    }
    for name, label in labels.items():
        value = asked.get(name)
        if value:
            interval = f"{value['low']:.2f} to {value['high']:.2f}"
            rows.append([label, f"{value['mean']:.2f}", interval])
    for name, label in (("loss_before", "before"), ("loss_after", "after")):
        value = asked.get(name)
        if value:
            error = value.get("standard_error")
            spread = "" if error is None else f"± {1.96 * error:.3f}"
            text = f"loss on the right answers, {label} fine-tuning (nats per token)"
            rows.append([text, f"{value['nats_per_token']:.3f}", spread])
    if not rows:
        return ""
    count = f"measured on {asked.get('count', 0)} questions"
    return table([count, "mean", "95 % interval"], rows, right=[1, 2])
