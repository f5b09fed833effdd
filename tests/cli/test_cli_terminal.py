"""What is typed in a terminal, and what is shown there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typed_lines import reader

from langwright.base import UserError
from langwright.cli.terminal import line_editing, read_text, visible


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (("one",), "one"),
        (("one\\", "two\\", "three"), "one\ntwo\nthree"),
        (('"""one', "  two", 'three"""'), "one\n  two\nthree"),
        (('"""', "  one", "", "two\\", '"""'), "  one\n\ntwo\\"),
        (('"""one"""',), "one"),
        (("caf\udcc3\udca9",), "caf\ufffd\ufffd"),
    ],
)
def test_texts_of_several_lines(lines: tuple[str, ...], text: str) -> None:
    assert read_text(reader(*lines)) == text


@given(st.text(max_size=40))
def test_any_line_can_be_encoded(line: str) -> None:
    rest = iter([line])
    text = read_text(lambda _: next(rest, '"""'))
    assert text.encode().decode() == text


@given(st.text(max_size=60))
def test_nothing_shown_controls_the_terminal(text: str) -> None:
    shown = visible(text)
    assert len(shown) == len(text)
    for before, after in zip(text, shown, strict=True):
        code = ord(before)
        control = (code < 32 and before not in "\n\t") or 0x7F <= code < 0xA0
        assert (after != before) == control and (after in "\n\t" or ord(after) >= 32)
    assert not any(0x7F <= ord(one) < 0xA0 for one in shown)


def test_typed_lines_are_kept_where_asked(tmp_path: Path) -> None:
    readline = pytest.importorskip("readline")
    path = tmp_path / "typed"
    readline.clear_history()
    with line_editing(["/retry", "/redo", "/save"], path):
        readline.add_history("what is it")
        complete = readline.get_completer()
        assert [complete("/re", i) for i in range(3)] == ["/retry", "/redo", None]
        assert complete("re", 0) is None
    assert "what is it" in path.read_text() and path.stat().st_mode & 0o077 == 0
    readline.clear_history()
    with line_editing([], path):
        assert readline.get_history_item(1) == "what is it"
    with pytest.raises(UserError, match="cannot read"), line_editing([], tmp_path):
        pass
    readline.clear_history()
