"""Charts and pages from plain data: what reports are made of."""

from langwright.base.bars import Bar, bar_chart, heat_map, histogram
from langwright.base.lines import Series, line_chart, smooth
from langwright.base.page import (
    Card,
    Section,
    chart,
    conversation,
    folded,
    heading,
    key_values,
    page,
    paragraph,
    preformatted,
    side_by_side,
    table,
    tabs,
    token_strip,
)
from langwright.base.svg import TopAxis, escape

__all__ = [
    "Bar",
    "Card",
    "Section",
    "Series",
    "TopAxis",
    "bar_chart",
    "chart",
    "conversation",
    "escape",
    "folded",
    "heading",
    "heat_map",
    "histogram",
    "key_values",
    "line_chart",
    "page",
    "paragraph",
    "preformatted",
    "side_by_side",
    "smooth",
    "table",
    "tabs",
    "token_strip",
]
