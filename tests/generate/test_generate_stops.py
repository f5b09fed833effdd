"""Stop strings in text that comes in pieces."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from langwright.generate import StopFinder


def feed(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    finder = StopFinder(stops)
    text = "".join(finder.push(piece) for piece in pieces)
    return text + ("" if finder.stopped else finder.finish()), finder.stopped


def test_found_across_pieces_and_cut() -> None:
    assert feed(["\n\nQ:"], ["an answer\n", "\n", "Q", ": more"]) == ("an answer", True)


def test_partial_is_held_back_until_it_cannot_match() -> None:
    finder = StopFinder(["END"])
    assert finder.push("the E") == "the "
    assert finder.push("N") == ""
    assert finder.push("T") == "ENT"
    assert finder.push(" EN") == " "
    assert finder.finish() == "EN"


def test_first_completed_wins_and_the_longest_of_equals() -> None:
    assert feed(["abcX", "bc"], ["abc", "X"]) == ("a", True)
    assert feed(["abcX", "bc"], ["abcX"]) == ("a", True)
    assert feed(["bc", "abc"], ["xabc"]) == ("x", True)


def test_without_stops_nothing_is_held() -> None:
    finder = StopFinder([])
    assert finder.push("abc") == "abc"
    assert StopFinder([""]).push("abc") == "abc"


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 30), max_size=5),
)
def test_cutting_into_pieces_changes_nothing(text: str, stops: list[str], cuts: list[int]) -> None:
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in pairwise(borders)]
    found, stopped = feed(stops, pieces)
    assert (found, stopped) == feed(stops, list(text))
    assert stopped == any(stop in text for stop in stops)
    assert text.startswith(found)
    assert not any(stop in found for stop in stops)
    if not stopped:
        assert found == text
