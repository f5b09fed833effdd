"""Stopping politely: Ctrl-C and SIGTERM let the step finish and a checkpoint be written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignals:
    """Within this context the first SIGINT or SIGTERM only sets `requested`; a second one stops.

    Outside the main thread, where no handler may be set, it does nothing.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.requested: int | None = None
        self._say = say
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            self.leave()
        self.requested = number
        self._say("stopping: this step is finished and saved first (again to stop at once)")

    def leave(self) -> None:
        """Raise what the signal means: KeyboardInterrupt, or SystemExit(143) for SIGTERM."""
        if self.requested == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt
