"""Output that cannot be written: one line, no traceback."""

from __future__ import annotations

import argparse
import errno
import os
import tempfile
from pathlib import Path

import pytest

from langwright.cli import main
from langwright.cli.system_errors import system_error_line


@pytest.mark.parametrize(
    "words",
    [
        ("run", "RECIPE", "--runs", "FILE"),
        ("corpus", "TEXTS", "--out", "FILE/c"),
        ("compare", "RUN", "RUN", "--html", "FILE/x.html"),
        ("report", "RUN", "--out", "FILE/x.html"),
        ("export", "RUN", "--out", "FILE/x"),
        ("export", "RUN", "--to", "gguf", "--out", "FILE/x.gguf"),
        ("get", "RUN/model", "--to", "FILE/x"),
    ],
)
def test_output_that_cannot_be_written_is_one_line(
    words: tuple[str, ...],
    finished_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file stands where a folder is needed: that stops even the administrator."""
    file = tmp_path / "plain"
    file.write_text("")
    home = finished_run.parents[1]
    places = {"FILE": file, "RECIPE": home / "tiny.toml", "RUN": finished_run}
    places["TEXTS"] = home / "texts"
    for name, place in places.items():
        words = tuple(word.replace(name, str(place)) for word in words)
    assert main(list(words)) == 1
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("error: ")]
    assert str(file) in line and "choose another path" in line
    assert file.read_text() == ""


def test_a_read_only_folder_and_a_full_disk_are_told(
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(number: int, name: str | None) -> None:
        def mkstemp(*arguments: object, **options: object) -> None:
            raise OSError(number, os.strerror(number), *([] if name is None else [name]))

        monkeypatch.setattr(tempfile, "mkstemp", mkstemp)

    page = str(tmp_path / "x.html")
    words = ["compare", str(finished_run), str(finished_run), "--html", page]
    for number, fix in (
        (errno.EACCES, "choose another place, or change its permissions"),
        (errno.EROFS, "choose a place that can be written"),
        (errno.ENOSPC, "free some room, or choose another disk"),
    ):
        refuse(number, f"{tmp_path}/.x.html.abc.tmp")
        assert main(words) == 1
        assert capsys.readouterr().err == f"error: {page}: {os.strerror(number)}: {fix}\n"


def test_an_error_without_a_path_names_the_output() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    asked = argparse.Namespace(out="here", runs="runs", continues=True)
    assert system_error_line(full, asked) == (
        "here: No space left on device: free some room, or choose another disk; "
        "the same command then goes on from here"
    )
    moved = OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b")
    nowhere = argparse.Namespace(continues=False)
    assert system_error_line(moved, nowhere).startswith("b: Invalid cross-device link: ")
    assert system_error_line(OSError("no\nroute"), nowhere).startswith("no route: ")
