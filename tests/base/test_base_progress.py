"""Progress on a terminal and elsewhere."""

from __future__ import annotations

import io
import threading

import pytest

from langwright.base import Progress, human_bytes, human_count, human_seconds
from langwright.base import progress as module


def test_plain_lines_at_start_now_and_then_and_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Progress("tokenize", total=100, unit="files") as progress:
        for _ in range(50):
            now[0] += 1.0
            progress.advance(2, loss="3.21", valid_loss="3.5")
        progress.say("a note [bold]")
        assert progress.rate == 2.0
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines[0] == "tokenize: 100 files"
    assert lines[1] == (
        "tokenize: 20% 20/100 files · 2 files/s · 40 s left · loss 3.21 · valid loss 3.5"
        " · 10 s so far"
    )
    assert len(lines) == 1 + 5 + 1 + 1
    assert lines[-2] == "a note [bold]"
    assert lines[-1].startswith("tokenize: 100% 100/100 files") and lines[-1].endswith("- done")


def test_an_exception_says_stopped_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), Progress("work"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err.splitlines()[-1].endswith("- stopped")


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("work", total=3, quiet=True) as progress:
        progress.advance(3)
        progress.say("nothing")
    assert capsys.readouterr() == ("", "")


def test_resumed_work_does_not_count_in_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Progress("train", total=200, quiet=True, already=100) as progress:
        now[0] = 10.0
        progress.advance(10)
        assert progress.rate == 1.0
        assert progress.seconds_left == 90.0


def test_bars_on_a_terminal_nest_and_survive_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(module, "on_terminal", lambda: True)
    monkeypatch.setattr(module, "_console", lambda: console)
    with Progress("outer", total=400, unit="rows") as outer:

        def work() -> None:
            for _ in range(100):
                outer.advance(1, note="[red]x")

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        with Progress("inner [1/2]", total=5) as inner:
            inner.advance(5)
        for thread in threads:
            thread.join()
        outer.say("kept [as it is]")
    assert outer.completed == 400
    text = screen.getvalue()
    assert "100%" in text and "inner [1/2]" in text
    assert "kept [as it is]" in text and "[red]x" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7"), (3.14159, "3.14"), (999, "999"), (1000, "1k"), (12345, "12.3k"),
     (999_900, "1M"), (1_234_567, "1.23M"), (5e9, "5B"), (-1500, "-1.5k")],
)  # fmt: skip
def test_human_count(value: float, text: str) -> None:
    assert human_count(value) == text


def test_human_times_and_sizes() -> None:
    assert [human_seconds(s) for s in (0.04, 9.94, 9.96, 59.4, 59.6, 75, 3600, 7325)] == [
        "0.0 s", "9.9 s", "10 s", "59 s", "1 min 00 s", "1 min 15 s", "1 h 00 min", "2 h 02 min",
    ]  # fmt: skip
    assert [human_bytes(b) for b in (0, 1023, 1536, 3 * 2**30)] == [
        "0 B", "1023 B", "1.5 KiB", "3.0 GiB",
    ]  # fmt: skip
