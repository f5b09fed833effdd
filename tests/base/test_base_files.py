"""Atomic files, JSON, hashes, seeds, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langwright.base import (
    UserError,
    atomic_path,
    hash_json,
    nearest,
    read_json,
    seed_for,
    sha256_file,
    write_atomic,
    write_json,
)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half of the new")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_files_get_the_usual_permissions(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_json_comes_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    text = json.dumps(value)
    if json.loads(text) != value:  # lone surrogates do not survive UTF-8
        return
    path = tmp_path_factory.getbasetemp() / "value.json"
    try:
        write_json(path, value)
    except UnicodeEncodeError:
        return
    assert read_json(path) == value


def test_broken_json_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{\n"a": 1,\n!\n}')
    with pytest.raises(UserError, match=r"x\.json:3: not valid JSON"):
        read_json(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not valid JSON"):
        read_json(path)
    with pytest.raises(UserError, match="file not found"):
        read_json(tmp_path / "missing.json")


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_hashes(tmp_path: Path) -> None:
    assert hash_json({"a": 1, "b": [2]}) == hash_json({"b": [2], "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})
    (tmp_path / "x").write_bytes(b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(tmp_path / "x") == known


def test_seeds_depend_on_names_only() -> None:
    assert seed_for(1, "a", "b") == seed_for(1, "a", "b")
    different = {seed_for(1, "a", "b"), seed_for(1, "ab"), seed_for(2, "a", "b"), seed_for(1, "a")}
    assert len(different) == 4
    assert all(0 <= seed < 2**63 for seed in different)


def test_an_error_tells_all_it_knows() -> None:
    error = UserError("bad rate", where="a.toml:3", found="-1", expected="more than 0", fix="use 1")
    assert str(error).splitlines() == [
        "a.toml:3: bad rate",
        "  found:    -1",
        "  expected: more than 0",
        "  fix:      use 1",
    ]
    assert str(UserError("short")) == "short"


def test_nearest() -> None:
    assert nearest("stpes", ["steps", "tokens"]) == "steps"
    assert nearest("zzz", ["steps", "tokens"]) is None
