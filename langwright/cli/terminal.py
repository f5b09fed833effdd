"""The terminal: lines with editing and history, safe output, Ctrl-C between two steps."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

from langwright.base import UserError, say

BLOCK = '"""'
PATIENCE = 3  # so many Ctrl-C leave even amid a step
MOST_LINES = 1000  # of a history file

# What a model writes is not trusted: a control sequence could rename the window, or move what
# was printed. They are shown as the pictures that Unicode has for them (U+2400 ...).
_SHOWN = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
_SHOWN |= {0x7F: "\u2421"} | dict.fromkeys(range(0x80, 0xA0), "\ufffd")


def visible(text: str) -> str:
    """The text with control characters made visible; line breaks and tabs stay."""
    return text.translate(_SHOWN)


def prepare_output() -> None:
    """What the terminal's encoding does not have is printed as "?", not a crash."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def read_text(read: Callable[[str], str]) -> str:
    """What the person types: a line; several after a trailing backslash or between two `BLOCK`.

    Args:
        read: gives a line after showing its argument; EOFError at the end of the input.
    """
    first = read("\nyou> ")
    if first.lstrip().startswith(BLOCK):
        return _block(first.lstrip()[len(BLOCK) :], read)
    lines = [first]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(read("...> "))
    return _clean("\n".join(lines)).strip()


def _block(line: str, read: Callable[[str], str]) -> str:
    """The lines up to one that ends with the mark; their blanks stay."""
    lines = []
    while not line.rstrip().endswith(BLOCK):
        lines.append(line)
        line = read("...> ")
    lines.append(line.rstrip()[: -len(BLOCK)])
    return _clean("\n".join(lines)).strip("\n")


def _clean(text: str) -> str:
    """What a terminal gives for broken bytes are lone surrogates, which no tokenizer takes.

    They become the replacement character.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@contextlib.contextmanager
def line_editing(words: Sequence[str], history: Path | None = None) -> Iterator[None]:
    """Arrow keys, and Tab for `words`, while a person types.

    Args:
        words: what Tab completes at the beginning of a line.
        history: a file that keeps typed lines from one talk to the next; None keeps none.

    Raises:
        UserError: the history file cannot be read.
    """
    try:
        import readline
    except ImportError:  # Windows
        if history is not None:
            say("note: this Python has no line editing, so no history is kept")
        yield
        return

    def complete(text: str, state: int) -> str | None:
        fitting = [word for word in words if text.startswith("/") and word.startswith(text)]
        return fitting[state] if state < len(fitting) else None

    readline.set_completer_delims(" \t\n")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
    if history is not None and history.exists():
        try:
            readline.read_history_file(history)
        except OSError as error:
            raise UserError(f"cannot read: {error.strerror}", where=history) from None
    try:
        yield
    finally:
        readline.set_completer(None)
        if history is not None:
            _write_history(history)


def _write_history(path: Path) -> None:
    """Keep the last lines (the library makes the file readable by its owner only)."""
    import readline

    try:
        readline.set_history_length(MOST_LINES)
        readline.write_history_file(path)
    except OSError as error:
        say(f"note: the history was not kept: {path}: {error.strerror}")


class TornError(KeyboardInterrupt):
    """Ctrl-C amid a step: the engine is not to be used any more."""


@contextlib.contextmanager
def interrupts() -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C only takes a note; the function given tells whether it was pressed.

    So a step of the engine is not torn apart, unless it is pressed three times (`TornError`).
    Outside the main thread signals cannot be taken; there Ctrl-C stays as it is.
    """
    count = 0

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal count
        count += 1
        if count >= PATIENCE:
            raise TornError

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: count > 0
    finally:
        signal.signal(signal.SIGINT, before)
