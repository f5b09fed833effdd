"""Figures on their way from the device to the host, without anyone waiting for them.

Reading a number off a GPU stops the host until the device has done everything asked of it so far;
the device then idles while the host catches up. Here the figures of many updates travel in one
copy to page-locked memory, and are read when an event says that they have come.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Arrival:
    """The figures of some updates, in order."""

    labels: list[Any]  # what was given to `Arrivals.add`
    values: list[list[float]]
    seconds: float  # the device took for them, since the arrival before or `restart_clock`


class Arrivals:
    """Collects small tensors on `device` and brings them to the host."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._labels: list[Any] = []
        self._tensors: list[Tensor] = []
        self._travelling: deque[tuple[list[Any], Tensor, Any]] = deque()
        self.restart_clock()

    def add(self, label: Any, values: Tensor) -> None:
        """Take the figures (n,) of an update; the same n every time."""
        self._labels.append(label)
        self._tensors.append(values)

    def restart_clock(self) -> None:
        """Leave what happened until now out of the seconds of the next arrival."""
        self._since = self._mark()

    def take(self, *, wait: bool) -> list[Arrival]:
        """Send off what was added, and give what has come.

        Args:
            wait: give everything, and wait for it if need be; else only what is there. Nothing
                but a CUDA device lets one ask: elsewhere this waits in any case.
        """
        if self._labels:
            self._travelling.append((self._labels, self._send(), self._mark()))
            self._labels, self._tensors = [], []
        found = []
        while self._travelling:
            labels, values, mark = self._travelling[0]
            if self._cuda and wait:
                mark.synchronize()
            elif self._cuda and not mark.query():
                break
            self._travelling.popleft()
            found.append(Arrival(labels, values.tolist(), self._between(self._since, mark)))
            self._since = mark
        return found

    def _send(self) -> Tensor:
        """(updates, n), on the host once the mark that follows has been passed."""
        values = torch.stack(self._tensors)
        if not self._cuda:
            return values.cpu()
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return host.copy_(values, non_blocking=True)

    def _mark(self) -> Any:
        """A moment on the device's clock."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, earlier: Any, later: Any) -> float:
        if self._cuda:
            earlier.synchronize()  # it lies before `later`, which has been passed
            return earlier.elapsed_time(later) / 1000.0
        return later - earlier
