"""One self-contained HTML page from plain data: no network, no script, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from langwright.base.svg import chart_id, escape


@dataclass(frozen=True)
class Section:
    """A titled part of a page; `body` is HTML, the rest is plain text."""

    title: str
    body: str
    intro: str = ""


@dataclass(frozen=True)
class Card:
    """A headline number."""

    label: str
    value: str
    unit: str = ""
    note: str = ""


def page(
    title: str,
    sections: Sequence[Section],
    *,
    subtitle: str = "",
    cards: Sequence[Card] = (),
    footer: str = "",
) -> str:
    """A whole HTML document. Everything but the sections' bodies is escaped here."""
    css = resources.files("langwright.base").joinpath("page.css").read_text(encoding="utf-8")
    shown = [section for section in sections if section.body]
    links = "".join(f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>' for s in shown)
    parts = [
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
        f"<title>{escape(title)}</title>\n<style>\n{css}</style>\n</head>\n<body>\n<main>\n<header>\n",
        f"<h1>{escape(title)}</h1>\n",
        f'<p class="quiet">{escape(subtitle)}</p>\n' if subtitle else "",
        f"<nav>{links}</nav>\n" if len(shown) > 2 else "",
        "</header>\n",
        _cards(cards),
        *(_section(section) for section in shown),
        f"<footer>{escape(footer)}</footer>\n" if footer else "",
        "</main>\n</body>\n</html>\n",
    ]
    return "".join(parts)


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[int] = (),
    strong: Sequence[int] = (),
) -> str:
    """A table; columns `right` are aligned right, rows `strong` stand out. Cells are escaped."""
    align = [' class="right"' if i in right else "" for i in range(len(headers))]
    head = "".join(f'<th scope="col"{a}>{escape(h)}</th>' for a, h in zip(align, headers))
    lines = []
    for number, row in enumerate(rows):
        cells = "".join(f"<td{a}>{escape(cell)}</td>" for a, cell in zip(align, row))
        lines.append(f"<tr{' class=strong' if number in strong else ''}>{cells}</tr>")
    body = "\n".join(lines)
    head = f"<thead><tr>{head}</tr></thead>"
    return f'<div class="table"><table>{head}<tbody>{body}</tbody></table></div>\n'


def key_values(values: Mapping[str, object]) -> str:
    """A two-column table of names and values."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in values.items()
    )
    return f'<div class="table"><table><tbody>{rows}</tbody></table></div>\n'


def paragraph(text: str, *, quiet: bool = False) -> str:
    """A paragraph of plain text."""
    return f"<p{' class=quiet' if quiet else ''}>{escape(text)}</p>\n"


def heading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escape(text)}</h3>\n"


def preformatted(text: str) -> str:
    """Text with its own line breaks."""
    return f"<pre>{escape(text)}</pre>\n"


def chart(svg: str) -> str:
    """A chart at full width."""
    return f'<div class="chart">{svg}</div>\n'


def side_by_side(*svgs: str) -> str:
    """Charts beside each other where there is room."""
    return f'<div class="pair">{"".join(chart(svg) for svg in svgs)}</div>\n'


def folded(summary: str, body: str) -> str:
    """HTML that is shown when its summary is clicked."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}</details>\n"


def tabs(panels: Sequence[tuple[str, str]]) -> str:
    """One of several HTML panels at a time, chosen by its label; print shows all."""
    group = chart_id(*(body for _, body in panels))
    parts = []
    for i, (label, body) in enumerate(panels):
        name = f"{group}-{i}"
        checked = " checked" if i == 0 else ""
        parts.append(
            f'<input type="radio" name="{group}" id="{name}"{checked}>'
            f'<label for="{name}">{escape(label)}</label><div class="panel">{body}</div>'
        )
    return f'<div class="tabs">{"".join(parts)}</div>\n'


def conversation(turns: Sequence[tuple[str, str, str]]) -> str:
    """Turns of a talk: (kind, who, text), the kind one of user, assistant, reference."""
    lines = []
    for kind, who, text in turns:
        kind = kind if kind in ("user", "assistant", "reference") else "assistant"
        lines.append(
            f'<div class="{kind}"><div class="who">{escape(who)}</div>'
            f'<div class="said">{escape(text)}</div></div>'
        )
    return f'<div class="talk">{"".join(lines)}</div>\n'


def token_strip(pieces: Sequence[tuple[str, int]]) -> str:
    """Text cut into tokens, each piece shaded, its id under the pointer."""
    spans = "".join(
        f'<span title="{number}">{escape(_visible(text))}</span>' for text, number in pieces
    )
    return f'<div class="tokens">{spans}</div>\n'


def _visible(text: str) -> str:
    return text.replace("\n", "⏎\n").replace("\t", "⇥\t")


def _section(section: Section) -> str:
    intro = f'<p class="intro">{escape(section.intro)}</p>\n' if section.intro else ""
    name = _anchor(section.title)
    title = f"<h2>{escape(section.title)}</h2>"
    return f'<section id="{name}">\n{title}\n{intro}{section.body}</section>\n'


def _cards(cards: Sequence[Card]) -> str:
    if not cards:
        return ""
    items = []
    for card in cards:
        unit = f" <small>{escape(card.unit)}</small>" if card.unit else ""
        note = f'<div class="note">{escape(card.note)}</div>' if card.note else ""
        items.append(
            f'<div class="card"><div class="label">{escape(card.label)}</div>'
            f'<div class="value">{escape(card.value)}{unit}</div>{note}</div>'
        )
    return f'<div class="cards">{"".join(items)}</div>\n'


def _anchor(title: str) -> str:
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in title.lower())
