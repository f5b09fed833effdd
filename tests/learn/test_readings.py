"""Each reading's figures, and that the index names every script."""

from __future__ import annotations

import re
from pathlib import Path

import figures as figures_module
import pytest
import reading_cross_attention
import reading_decoder_only
import reading_every_position
import reading_other_architectures
import reading_simplified_block
import reading_word_vectors
import torch
from figures import Figure

LEARN = Path(__file__).resolve().parents[2] / "docs" / "learn"


@pytest.mark.parametrize(
    ("reading", "count"),
    [
        (reading_word_vectors, 3),
        (reading_simplified_block, 4),
        (reading_cross_attention, 8),
        (reading_every_position, 6),
        (reading_decoder_only, 8),
        (reading_other_architectures, 9),
    ],
)
def test_figures(reading: object, count: int) -> None:
    found: list[Figure] = list(reading.figures())  # type: ignore[attr-defined]
    wrong = [str(figure) for figure in found if not figure.matches]
    assert not wrong, "\n".join(wrong)
    assert len(found) == count


def test_a_drawing_keeps_every_word() -> None:
    points = torch.tensor([[0.0, 0.0], [0.0, 0.01], [1.0, 1.0], [1.0, 1.0]])
    words = ["one", "two", "three", "four"]
    drawn = reading_word_vectors.drawing(points, words)
    assert sorted(drawn.split()) == sorted(words)
    lines = drawn.splitlines()
    assert "three" in lines[0] and "four" in lines[1]


def test_show_counts_what_differs(capsys: pytest.CaptureFixture) -> None:
    good, bad = Figure("a", [1.0], [1.0]), Figure("b", [1.0], [2.0])
    assert figures_module.show([good], [good]) == 0
    assert figures_module.show([good], [bad, bad]) == 1
    assert "2 figures differ" in capsys.readouterr().out


def test_the_index_names_every_script_and_no_other() -> None:
    """A script of the folder stands in a table of the README, with the file as its link."""
    index = (LEARN / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([a-z0-9_]+\.py)\)", index))
    there = {path.name for path in LEARN.glob("*.py")}
    assert linked == there
    for path in LEARN.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "__main__" in text:  # it runs by itself, and says how
            assert f"python docs/learn/{path.name}" in text, path.name
