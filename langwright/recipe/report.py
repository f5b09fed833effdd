"""The report of a run: one HTML file, made from the run's files only."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from langwright import __version__
from langwright.base import (
    Bar,
    Card,
    Section,
    bar_chart,
    chart,
    folded,
    heading,
    human_bytes,
    human_count,
    human_seconds,
    key_values,
    page,
    preformatted,
    table,
    write_atomic,
)
from langwright.recipe.facts import Facts, read_facts
from langwright.recipe.report_data import corpus_section, tokenizer_section
from langwright.recipe.report_quality import (
    quality_section,
    questions_section,
    samples_section,
)
from langwright.recipe.report_training import training_section
from langwright.recipe.toml import write_toml


def write_report(run: str | Path, out: str | Path | None = None) -> dict[str, Any]:
    """Write the report of a run folder.

    Args:
        run: the run folder; stages that are missing are left out of the report.
        out: the HTML file; ``RUN/report.html`` by default.

    Returns:
        path (of the file) and bytes.
    """
    facts = read_facts(Path(run))
    text = report_html(facts)
    path = Path(run) / "report.html" if out is None else Path(out)
    write_atomic(path, text)
    return {"path": str(path), "bytes": len(text.encode("utf-8"))}


def report_html(facts: Facts) -> str:
    """The whole page."""
    settings = facts.recipe.get("report") or {}
    sections = [
        quality_section(facts),
        questions_section(facts),
        samples_section(facts, settings.get("samples", 6)),
        training_section(facts, "pretrain", "Training"),
        training_section(facts, "sft", "Fine-tuning"),
        tokenizer_section(facts),
        corpus_section(facts),
        _run_section(facts),
        _use_section(facts),
    ]
    created = max((m.created for m in facts.manifests.values()), default="")
    return page(
        settings.get("title") or facts.name,
        [section for section in sections if section is not None],
        subtitle=_subtitle(facts),
        cards=_cards(facts),
        footer=f"Made by Langwright {__version__}{_day(created)}. This file needs no network.",
    )


def _subtitle(facts: Facts) -> str:
    """One sentence about what this is."""
    words = ["A language model"]
    parameters = facts.metrics("pretrain").get("parameters")
    if parameters:
        words.append(f"of {human_count(parameters)} parameters")
    sources = ", ".join(facts.recipe.get("corpus", {}).get("sources", []))
    if sources:
        words.append(f"made from {sources}")
    last = facts.manifests.get("pretrain")
    if last is not None and last.environment.get("device_name"):
        words.append(f"on {last.environment['device_name']}")
    return " ".join(words) + f" in {human_seconds(facts.seconds)}"


def _cards(facts: Facts) -> list[Card]:
    """The headline numbers."""
    cards = []
    row = facts.headline.get("model")
    if row:
        error = ""
        if row.get("low") is not None and row.get("high") is not None:
            error = f"± {(row['high'] - row['low']) / 2:.3f}"
        classics = facts.classics()
        best = min(classics, key=lambda name: classics[name]) if classics else None
        note = f"{best} needs {classics[best]:.3f}" if best else ""
        cards.append(Card("Bits per byte", f"{row['bits_per_byte']:.3f}", error, note))
    loss = facts.headline_loss()
    if loss:
        perplexity = loss.get("perplexity")
        note = f"perplexity {perplexity:,.1f}" if perplexity is not None else ""
        cards.append(Card("Loss, held-out", f"{loss['nats_per_token']:.3f}", "nats/token", note))
    tokens = _tokens_seen(facts, "pretrain")
    if tokens:
        seconds = facts.manifests["pretrain"].seconds
        cards.append(
            Card("Trained on", human_count(tokens), "tokens", f"in {human_seconds(seconds)}")
        )
    f1 = facts.evaluation.get("questions", {}).get("f1")
    if f1:
        chance = facts.evaluation["questions"].get("chance_f1", {}).get("mean")
        note = f"{chance:.2f} by chance" if chance is not None else ""
        spread = f"± {(f1['high'] - f1['low']) / 2:.2f}"
        cards.append(Card("Answers, F1", f"{f1['mean']:.2f}", spread, note))
    return cards


def _tokens_seen(facts: Facts, stage: str) -> float | None:
    records = facts.training.get(stage, [])
    return next((r["tokens"] for r in reversed(records) if r.get("tokens")), None)


def _run_section(facts: Facts) -> Section:
    """Stage times, settings, environment."""
    bars = [
        Bar(name, manifest.seconds, note="", highlight=False)
        for name, manifest in facts.manifests.items()
    ]
    times = bar_chart(
        bars,
        title="Time of each stage",
        description="Seconds each stage took when it was last run.",
        value_format=human_seconds,
        x_label="seconds",
    )
    body = chart(times)
    last = next(reversed(facts.manifests.values()))
    body += heading("Machine and versions") + key_values(_environment(last.environment))
    rows = [
        (name, m.created, m.code, m.fingerprint[:12], len(m.files))
        for name, m in facts.manifests.items()
    ]
    body += heading("Artifacts")
    body += table(["stage", "made", "code", "fingerprint", "files"], rows, right=[4])
    if facts.recipe:
        body += folded("The whole recipe", preformatted(write_toml(facts.recipe)))
    return Section("The run", body)


def _environment(values: dict[str, Any]) -> dict[str, object]:
    shown: dict[str, object] = {}
    for name, value in values.items():
        if value is None:
            continue
        if name == "packages":
            shown["packages"] = ", ".join(f"{key} {version}" for key, version in value.items())
        elif name == "memory_bytes":
            shown["memory"] = human_bytes(value)
        else:
            shown[name.replace("_", " ")] = value
    return shown


def _use_section(facts: Facts) -> Section | None:
    """What to type to use the model."""
    model = facts.folder / "model"
    if not model.exists():
        return None
    chat = f"langwright chat {model}\n" if "sft" in facts.manifests else ""
    python = (
        "import langwright\n"
        f'lm = langwright.load("{model.as_posix()}")\n'
        'print(lm.generate("Return ", max_tokens=60))\n'
    )
    body = preformatted(f'{chat}langwright generate {model} "Return "') + preformatted(python)
    return Section("Use it", body, "The folder is a Hugging Face model folder.")


def _day(created: str) -> str:
    try:
        return f" on {datetime.datetime.fromisoformat(created):%-d %B %Y}"
    except ValueError:
        return ""
