"""Charts and pages: well-formed, escaped, and drawn where the numbers say."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.base import (
    Bar,
    Card,
    Section,
    Series,
    TopAxis,
    bar_chart,
    chart,
    conversation,
    escape,
    folded,
    heat_map,
    histogram,
    key_values,
    line_chart,
    page,
    preformatted,
    smooth,
    table,
    tabs,
    token_strip,
)
from langwright.base.axes import fit_scale, log_ticks, nice_ticks, spread, tick_format

EVIL = "<script>alert('x')</script>&\"\x00\ud800"


def parse(svg: str) -> ET.Element:
    return ET.fromstring(svg)


def words(svg: str) -> list[str]:
    return ["".join(e.itertext()) for e in parse(svg).iter() if e.tag.endswith("}text")]


def test_nice_ticks_are_round_and_inside() -> None:
    assert nice_ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(0.13, 0.87, 4) == [0.2, 0.4, 0.6, 0.8]
    assert nice_ticks(-3, 3, 6) == [-3, -2, -1, 0, 1, 2, 3]
    assert log_ticks(1, 1000) == [1, 10, 100, 1000]
    assert log_ticks(2, 8, 4) == [2, 5] or set(log_ticks(2, 8, 4)) <= {2, 3, 4, 5, 6, 8}


@given(st.floats(-1e12, 1e12), st.floats(1e-6, 1e12), st.integers(2, 12))
def test_ticks_for_any_range(low: float, span: float, count: int) -> None:
    high = low + span
    if not high - low > 1e-9 * max(abs(low), abs(high)):
        return
    ticks = nice_ticks(low, high, count)
    assert len(ticks) <= count + 2
    assert all(low - 1e-6 * span <= t <= high + 1e-6 * span for t in ticks)
    texts = [tick_format(ticks)(t) for t in ticks]
    assert all(texts)


def test_tick_labels_tell_ticks_apart() -> None:
    for ticks in ([0.0, 0.25, 0.5], [1e-5, 2e-5], [1000.0, 1500.0], [2_500_000.0, 5e6], [1.0]):
        labels = [tick_format(ticks)(t) for t in ticks]
        assert len(set(labels)) == len(ticks), labels


@given(st.lists(st.floats(0, 300), max_size=12))
def test_spread_labels_keep_order_and_distance(positions: list[float]) -> None:
    placed = spread(positions, 16, 0, 300)
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    gaps = [placed[b] - placed[a] for a, b in itertools.pairwise(order)]
    assert all(gap >= 16 - 1e-6 for gap in gaps)
    assert all(p <= 300 + 1e-6 for p in placed)


def test_scales_hold_their_values() -> None:
    scale = fit_scale([1, 3, math.nan, math.inf], 100, 200)
    assert (scale(1), scale(3)) == (100, 200)
    log = fit_scale([0, 1, 100], 0, 200, log=True)
    assert (log(1), log(10), log(100)) == pytest.approx((0, 100, 200))
    assert fit_scale([], 0, 1).high > fit_scale([], 0, 1).low
    same = fit_scale([5, 5], 0, 1)
    assert same.low < 5 < same.high
    assert fit_scale([2, 4], 0, 1, zero=True, pad=0.1).low == 0


def test_smoothing_is_a_centred_mean_and_skips_gaps() -> None:
    values = [float(i) for i in range(50)]
    assert smooth(values, 5)[10:40] == values[10:40]
    assert smooth([1.0, math.nan, 3.0], 3)[1] == 2.0
    assert smooth([], 3) == []


def test_a_line_is_drawn_where_its_values_are() -> None:
    svg = line_chart([Series("a", [0, 5, 10], [0, 5, 10])], title="T", from_zero=True)
    path = next(e for e in parse(svg).iter() if e.tag.endswith("}path"))
    points = [tuple(map(float, p.split())) for p in re.split("[ML]", path.attrib["d"])[1:]]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2) and x2 > x1
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2) and y2 < y1
    assert "10" in words(svg)


def test_charts_have_titles_for_everyone() -> None:
    svg = line_chart([Series("loss", [1, 2], [3, 2])], title="Loss", description="falls to 2")
    root = parse(svg)
    assert root.attrib["role"] == "img"
    names = root.attrib["aria-labelledby"].split()
    found = {e.attrib["id"]: e.text for e in root if "id" in e.attrib}
    assert [found[name] for name in names] == ["Loss", "falls to 2"]


def test_several_lines_are_named_at_their_ends_without_overlap() -> None:
    lines = [Series(f"line {i}", [0, 1], [1, 2 + i * 1e-6]) for i in range(6)]
    svg = line_chart(lines, title="T", top=TopAxis("tokens", 1000))
    labels = [e for e in parse(svg).iter() if e.tag.endswith("}text") and "line " in (e.text or "")]
    heights = sorted(float(e.attrib["y"]) for e in labels)
    assert len(heights) == 6
    assert all(b - a >= 15.9 for a, b in itertools.pairwise(heights))
    assert "tokens" in words(svg)


def test_gaps_lift_the_pen_and_long_lines_are_thinned() -> None:
    svg = line_chart([Series("a", [0, 1, 2, 3], [1, math.nan, 2, 3])], title="T")
    path = next(e for e in parse(svg).iter() if e.tag.endswith("}path"))
    assert path.attrib["d"].count("M") == 2
    many = list(range(100_000))
    spike = [1.0] * 100_000
    spike[54_321] = 9.0
    svg = line_chart([Series("a", many, spike)], title="T")
    assert len(svg) < 60_000
    heights = {float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", svg)}
    assert len(heights) >= 2, "the spike was lost"


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, math.nan]])
def test_no_data_says_so(values: list[float]) -> None:
    assert "no data" in line_chart([Series("a", list(range(len(values))), values)], title="T")
    assert "no data" in line_chart([], title="T")
    assert "no data" in bar_chart([], title="T")
    assert "no data" in histogram([], [], title="T")


@given(
    st.lists(st.tuples(st.floats(), st.floats()), max_size=30), st.booleans(), st.booleans(),
    st.booleans(),
)  # fmt: skip
def test_any_numbers_give_well_formed_charts(
    points: list[tuple[float, float]], log_x: bool, log_y: bool, smoothed: bool
) -> None:
    points = [(a, b) for a, b in points if abs(a) < 1e200 and abs(b) < 1e200]
    series = Series("s", [a for a, _ in points], [b for _, b in points], smooth=smoothed)
    svg = line_chart([series, series], title="T", log_x=log_x, log_y=log_y, clip_start=True)
    parse(svg)
    assert "nan" not in svg and "inf" not in svg.replace("infinity", "")


def test_a_smoothed_line_stays_within_its_values() -> None:
    """Beside 1e16 a sum cannot hold 1; a logarithm cannot take the 0 that is left."""
    values = [1.0] * 10 + [1e16] * 10 + [1.0] * 10
    assert min(smooth(values, 3)) == 1.0
    assert smooth([1.0, math.nan, 3.0], 3) == [1.0, 2.0, 3.0]
    line_chart([Series("s", list(range(1, 31)), values, smooth=True)], title="T", log_y=True)


def test_bars_have_the_length_of_their_values_and_whiskers() -> None:
    svg = bar_chart([Bar("a", 1.0), Bar("b", 2.0, 1.5, 2.5)], title="T")
    bars = [e for e in parse(svg).iter() if e.tag.endswith("}rect")]
    first, second = (float(bar.attrib["width"]) for bar in bars)
    assert second == pytest.approx(2 * first, rel=0.01)
    assert "(1.5 to 2.5)" in "".join(parse(svg).itertext())


def test_histogram_and_heat_map_are_well_formed() -> None:
    parse(histogram([1, 10, 100], [5, 7], title="T", log_x=True))
    svg = heat_map([[0.0, 1.0], [math.nan, 0.5]], ["r1", "r2"], ["c1", "c2"], title="T")
    shades = re.findall(r'fill-opacity="([\d.]+)"', svg)
    assert shades[0] == "0.060" and shades[1] == "1.000" and shades[2] == "0.000"


class Tags(HTMLParser):
    """Checks that tags nest, and collects what there is."""

    VOID = {"meta", "input", "br", "rect", "line", "circle", "path"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_everything_a_user_wrote_is_escaped() -> None:
    svg = line_chart([Series(EVIL, [1, 2], [1, 2])] * 2, title=EVIL, description=EVIL, x_label=EVIL)
    bars = bar_chart([Bar(EVIL, 1.0, note=EVIL)], title=EVIL)
    shades = heat_map([[1.0]], [EVIL], [EVIL], title=EVIL)
    body = chart(svg) + chart(bars) + chart(shades) + table([EVIL], [[EVIL]])
    body += key_values({EVIL: EVIL}) + preformatted(EVIL) + folded(EVIL, "")
    body += conversation([("user", EVIL, EVIL), (EVIL, EVIL, EVIL)])
    body += token_strip([(EVIL, 1)]) + tabs([(EVIL, "x"), ("b", "y")])
    html = page(EVIL, [Section(EVIL, body, EVIL)], cards=[Card(EVIL, EVIL, EVIL, EVIL)],
                subtitle=EVIL, footer=EVIL)  # fmt: skip
    html.encode("utf-8")
    assert "\x00" not in html
    tags = Tags()
    tags.feed(html)
    assert tags.open == [] and "script" not in tags.tags
    assert "alert" in html


def test_a_page_needs_no_network_and_follows_the_reader() -> None:
    html = page(
        "T", [Section("A", "<p>x</p>"), Section("B", ""), Section("C", "y"), Section("D", "z")]
    )
    assert html.startswith("<!doctype html>")
    tags = Tags()
    tags.feed(html)
    assert all(link.startswith("#") for link in tags.links)
    assert "http" not in html and "@import" not in html and "url(" not in html
    assert "prefers-color-scheme: dark" in html and "@media print" in html
    assert "<h2>B</h2>" not in html, "an empty section is left out"


def test_the_same_data_gives_the_same_bytes() -> None:
    def make() -> str:
        return line_chart([Series("a", [1, 2], [1, 2])], title="T") + tabs([("x", "1"), ("y", "2")])

    assert make() == make()


def test_escape() -> None:
    assert escape("<a & 'b'>") == "&lt;a &amp; &#x27;b&#x27;&gt;"
    assert escape("tab\tline\n") == "tab\tline\n"
    assert escape("\x1b[31m") == "\ufffd[31m"
