"""Progress of long work: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

PLAIN_SECONDS = 10.0  # between two plain lines


class Progress:
    """Shows how far a piece of work is, how fast it goes and how long it will still take.

    Everything goes to standard error, so that standard output stays clean for results.

        with Progress("tokenize", total=len(files), unit="files") as progress:
            for file in files:
                ...
                progress.advance(1, tokens="1.2M")

    Args:
        title: what is being done.
        total: how many units there are, if that is known.
        unit: what is counted (``"tokens"``).
        quiet: show nothing at all (``say`` included).
        already: units done before this run began (a resumed training); they do not count in the
            rate.
    """

    def __init__(
        self,
        title: str,
        total: float | None = None,
        unit: str = "",
        quiet: bool = False,
        *,
        already: float = 0,
    ) -> None:
        self.title = title
        self.total = total
        self.unit = unit
        self.completed: float = already
        self._already = already
        self._fields: dict[str, Any] = {}
        self._quiet = quiet
        self._lock = threading.RLock()
        self._started = self._last_line = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        self._started = self._last_line = time.monotonic()
        if self._quiet:
            return self
        if on_terminal():
            self._bar = _rich_bar()
            # `already` is set after the start, so that rich leaves it out of the rate.
            self._task = self._bar.add_task(self.title, total=self.total, state="")
            self._bar.start()
            self._refresh()
        else:
            count = (
                "" if self.total is None else f": {human_count(self.total)} {self.unit}".rstrip()
            )
            _write_line(f"{self.title}{count}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._quiet:
            return
        with self._lock:
            if self._bar is not None:
                self._refresh()
                self._bar.stop()
                self._bar = None
            else:
                _write_line(self._line() + (" - done" if kind is None else " - stopped"))

    def advance(self, n: float = 1, **fields: Any) -> None:
        """`n` more units are done; `fields` (``loss="3.21"``) stand beside the bar."""
        with self._lock:
            self.completed += n
            self._show(fields)

    def update(
        self, *, completed: float | None = None, total: float | None = None, **fields: Any
    ) -> None:
        """Set the count, the total or the fields."""
        with self._lock:
            if completed is not None:
                self.completed = completed
            if total is not None:
                self.total = total
            self._show(fields)

    def say(self, text: str) -> None:
        """A line of text that stays, above the bar."""
        if not self._quiet:
            say(text)

    @property
    def rate(self) -> float:
        """Units per second in this run, 0.0 at the very beginning."""
        seconds = time.monotonic() - self._started
        return (self.completed - self._already) / seconds if seconds > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds to the end; None while it cannot be known."""
        if self.total is None or self.rate <= 0:
            return None
        return max(0.0, (self.total - self.completed) / self.rate)

    def _show(self, fields: dict[str, Any]) -> None:
        self._fields.update(fields)
        if self._quiet:
            return
        if self._bar is not None:
            self._refresh()
        elif time.monotonic() - self._last_line >= PLAIN_SECONDS:
            self._last_line = time.monotonic()
            _write_line(self._line())

    def _refresh(self) -> None:
        state = " · ".join(part for part in (self._rate_text(), self._field_text()) if part)
        self._bar.update(self._task, completed=self.completed, total=self.total, state=state)

    def _rate_text(self) -> str:
        parts = []
        if self.rate > 0:
            parts.append(f"{human_count(self.rate)} {self.unit}".rstrip() + "/s")
        if self.seconds_left is not None:
            parts.append(f"{human_seconds(self.seconds_left)} left")
        return " · ".join(parts)

    def _field_text(self) -> str:
        return " · ".join(
            f"{name.replace('_', ' ')} {value}" for name, value in self._fields.items()
        )

    def _line(self) -> str:
        done = human_count(self.completed)
        if self.total:
            share = 100 * self.completed / self.total
            done = f"{share:.0f}% {done}/{human_count(self.total)}"
        parts = [f"{done} {self.unit}".rstrip(), self._rate_text(), self._field_text()]
        parts.append(f"{human_seconds(time.monotonic() - self._started)} so far")
        return f"{self.title}: " + " · ".join(part for part in parts if part)


def say(text: str, style: str | None = None) -> None:
    """A line on standard error, above any bar that is being shown; never read as markup."""
    if on_terminal():
        _console().print(text, markup=False, highlight=False, style=style, soft_wrap=True)
    else:
        _write_line(text)


def on_terminal() -> bool:
    """Whether standard error is a terminal a person looks at."""
    with contextlib.suppress(AttributeError, ValueError):
        return sys.stderr.isatty()
    return False


def human_count(value: float) -> str:
    """``1234567`` → ``1.23M``: three digits and a letter."""
    for limit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{letter}"
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def human_bytes(value: float) -> str:
    """``1536`` → ``1.5 KiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def human_seconds(value: float) -> str:
    """``75`` → ``1 min 15 s``."""
    if value < 9.95:
        return f"{value:.1f} s"
    seconds = round(value)
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def _rich_bar() -> Any:
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}", markup=False, style="bold"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        console=_console(),
        refresh_per_second=5,
    )


@functools.cache
def _console() -> Any:
    """One console for all bars, so that nested ones share the screen."""
    from rich.console import Console

    return Console(stderr=True)


def _write_line(text: str) -> None:
    with contextlib.suppress(BrokenPipeError, ValueError):
        print(text, file=sys.stderr, flush=True)
