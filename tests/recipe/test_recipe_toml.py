"""TOML with line numbers, and written back."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.recipe.toml import key_lines, line_of, parse_value, read_toml, write_toml

TEXT = '''\
# a comment [not.a.table]
name = "x"           # another = comment

[pretrain]
steps = 3
prompts = [
  "a [b",  # ]
  "c",
]
optimizer.lr = 1e-3

[ dataset . "my weights" ]
"a.b" = 1
note = """
[fake]
fake = 1
"""
raw = \'\'\'
[fake2]\'\'\'
table = { one = 1, two = [1, 2] }

[[list]]
k = 1
'''


def test_every_key_is_on_its_line() -> None:
    lines = key_lines(TEXT)
    assert lines == {
        ("name",): 2,
        ("pretrain",): 4,
        ("pretrain", "steps"): 5,
        ("pretrain", "prompts"): 6,
        ("pretrain", "optimizer"): 10,
        ("pretrain", "optimizer", "lr"): 10,
        ("dataset",): 12,
        ("dataset", "my weights"): 12,
        ("dataset", "my weights", "a.b"): 13,
        ("dataset", "my weights", "note"): 14,
        ("dataset", "my weights", "raw"): 18,
        ("dataset", "my weights", "table"): 20,
        ("list",): 22,
        ("list", "k"): 23,
    }
    assert line_of(lines, ("dataset", "my weights", "table", "one")) == 20
    assert line_of(lines, ("nowhere",)) is None
    flat: set[tuple[str, ...]] = set()

    def walk(values: object, path: tuple[str, ...]) -> None:
        if isinstance(values, dict):
            for key, value in values.items():
                flat.add((*path, key))
                walk(value, (*path, key))

    walk(tomllib.loads(TEXT), ())
    assert set(lines) - {("list", "k")} <= flat


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
tables = st.recursive(
    st.dictionaries(names, values, max_size=4),
    lambda inner: st.dictionaries(names, values | inner, max_size=4),
    max_leaves=6,
)


@given(tables)
def test_what_is_written_reads_back(table: dict[str, object]) -> None:
    assert tomllib.loads(write_toml(table)) == table


@given(tables)
def test_lines_of_anything_written(table: dict[str, object]) -> None:
    text = write_toml(table)
    rows = text.splitlines()
    for path, number in key_lines(text).items():
        assert 1 <= number <= len(rows), (path, text)


def test_none_is_left_out() -> None:
    assert write_toml({"a": None, "b": {"c": None, "d": 1}}) == "[b]\nd = 1\n"


def test_a_syntax_error_names_file_line_and_text(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("a = 1\nb = hello\n")
    with pytest.raises(UserError) as caught:
        read_toml(path)
    assert f"{path}:2: not valid TOML" in str(caught.value)
    assert "b = hello" in str(caught.value)
    path.write_text("a = 1\n[open")
    with pytest.raises(UserError, match=r"bad\.toml:2"):
        read_toml(path)
    path.write_bytes(b"a = '\xff'")
    with pytest.raises(UserError, match="not UTF-8"):
        read_toml(path)
    with pytest.raises(UserError, match="recipe not found"):
        read_toml(tmp_path / "missing.toml")
    with pytest.raises(UserError, match="folder"):
        read_toml(tmp_path)


def test_values_of_the_command_line() -> None:
    assert parse_value("3e-4") == 3e-4
    assert parse_value("[1, 2]") == [1, 2]
    assert parse_value("true") is True
    assert parse_value('"a b"') == "a b"
    assert parse_value("muon") == "muon"
    assert parse_value("{a = 1}") == {"a": 1}
