"""An ablation as a table for the terminal, as Markdown, and as a page with a picture."""

from __future__ import annotations

from langwright.base import Bar, Section, bar_chart, chart, page, paragraph, table
from langwright.recipe.ablation_results import Ablation, VariantResult, verdict
from langwright.recipe.ablation_statistics import Estimate

HEADERS = ["variant", "validation loss", "difference", "95 % interval", "tokens", "TFLOP"]
WORDS = {
    "worse": "worse: what it changes earns its place in the baseline",
    "better": "better: the change earns its place",
    "not shown": "no difference shown",
}


def ablation_text(result: Ablation) -> str:
    """The table with what it means, for a terminal."""
    headers, rows = table_rows(result)
    lines = [headers, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    shown = []
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:-1])]
        shown.append("  ".join([*cells, line[-1]]).rstrip())
    return "\n".join([*shown, "", *notes(result)])


def markdown_page(result: Ablation) -> str:
    """The table and its notes as Markdown."""
    lines = [f"# Ablations of {result.recipe}", "", markdown_table(result), ""]
    return "\n".join(lines + [f"{note}\n" for note in notes(result)])


def markdown_table(result: Ablation, *, seconds: bool = True) -> str:
    """The table alone; without the column of seconds where the machine had other work."""
    headers, rows = table_rows(result, seconds=seconds)
    align = ["---", *("---:" for _ in headers[1:-1]), "---"]
    lines = [headers, align, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ablation_page(result: Ablation) -> str:
    """The table and the differences as bars with their intervals, as HTML."""
    headers, rows = table_rows(result)
    body = table(headers, rows, right=range(1, len(headers) - 1), strong=[0])
    body += "".join(paragraph(note, quiet=True) for note in notes(result))
    settings = [[row.name, row.about, ", ".join(row.settings) or "-"] for row in result.rows]
    return page(
        f"Ablations of {result.recipe}",
        [
            Section("Differences", _picture(result), "Less is better; lines are 95 % intervals."),
            Section("Table", body),
            Section("Settings", table(["variant", "what", "settings"], settings)),
        ],
        subtitle=f"{len(result.seeds)} seeds, {result.budget / 1e12:.3g} TFLOP a run",
    )


def table_rows(result: Ablation, *, seconds: bool = True) -> tuple[list[str], list[list[str]]]:
    """Headers and cells; variants in the order in which they were given."""
    headers = [*HEADERS, *(["seconds"] if seconds else []), "shown"]
    return headers, [_row(result, row, seconds) for row in result.rows]


def notes(result: Ablation) -> list[str]:
    """How to read the table, and what happened."""
    seeds = len(result.seeds)
    lines = [
        f"Loss in nats per token of the validation text of {', '.join(result.sources)} (less is "
        f"better), mean ± standard error over {seeds} {'seed' if seeds == 1 else 'seeds'}; the "
        f"baseline's model has {result.parameters:,} parameters. Differences are the variant minus "
        "the baseline, seed by seed, with Student's interval.",
        f"Every run has {result.budget / 1e12:.3g} TFLOP of matrix products, those of Muon's "
        "updates included: a variant that needs more for a token gets fewer tokens.",
    ]
    if seeds < 2:
        lines.append("With one seed no difference is shown: give --seeds 3 or more.")
    for row in result.rows:
        if row.chosen is not None:
            tried = ", ".join(f"{k} {_loss(v)}" for k, v in row.tried.items())
            choices = list(row.tried)
            at_end = row.chosen in (choices[0], choices[-1])
            beyond = "; at the end of the list, a better one may lie beyond" if at_end else ""
            lines.append(f"{row.name}: {row.chosen} chosen on a seed of its own ({tried}{beyond}).")
        for run in row.errors:
            lines.append(f"{row.name}: seed {run.seed} failed: {run.error}")
        if row.own_rows:
            lines.append(
                f"{row.name}: trained on rows of its own cut, measured on the baseline's rows."
            )
    return lines


def _row(result: Ablation, row: VariantResult, seconds: bool) -> list[str]:
    loss = row.loss
    name = f"{row.name}: {row.about}" if row.about else row.name
    if loss is None:
        return [name, *("-" for _ in HEADERS[1:]), *(["-"] if seconds else []), "failed"]
    difference = None if row is result.baseline else result.difference(row)
    told = verdict(difference)
    cells = [
        name,
        f"{loss.mean:.4f}"
        + ("" if loss.standard_error is None else f" ± {loss.standard_error:.4f}"),
        "" if difference is None else f"{difference.mean:+.4f}",
        "" if difference is None else _interval(difference),
        f"{row.mean('tokens'):,.0f}",
        f"{row.mean('flops') / 1e12:.3g}",
    ]
    if seconds:
        cells.append(f"{row.mean('seconds'):.1f}")
    failed = f"; {len(row.errors)} failed" if row.errors else ""
    return [*cells, ("" if told is None else WORDS[told]) + failed]


def _interval(value: Estimate) -> str:
    if value.low is None or value.high is None:
        return "-"
    return f"{value.low:+.4f} to {value.high:+.4f}"


def _loss(value: float | None) -> str:
    return "failed" if value is None else f"{value:.4f}"


def _picture(result: Ablation) -> str:
    """Differences from the baseline, the best first."""
    found = [(row, result.difference(row)) for row in result.variants]
    told = [(row, difference) for row, difference in found if difference is not None]
    if not told:
        return ""
    bars = [
        Bar(row.name, d.mean, d.low, d.high, highlight=d.sign != 0)
        for row, d in sorted(told, key=lambda pair: pair[1].mean)
    ]
    svg = bar_chart(
        bars,
        title="Difference from the baseline",
        description="loss of each variant minus the baseline's, with its 95 % interval",
        x_label="nats per token; coloured where the interval leaves out 0",
        value_format=lambda value: f"{value:+.3f}",
    )
    return chart(svg)
