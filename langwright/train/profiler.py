"""Traces of the profiler: where the time of an update goes."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from langwright.base import atomic_path, write_atomic

FOLDER = "profiles"
ROWS = 40  # operations in the table


class Profiler:
    """Records some updates.

    profiles/step-0000012.json.gz   a trace: open it in https://ui.perfetto.dev
             step-0000012.txt       the operations that took longest, with their memory

    Args:
        folder: of the run.
        device: of the model.
        say: told where the trace is.
    """

    def __init__(self, folder: Path, device: torch.device, say: Callable[[str], None]) -> None:
        self.folder = folder / FOLDER
        self.device = device
        self._say = say
        self._profile: Any = None
        self._first, self._left = 0, 0

    @property
    def running(self) -> bool:
        """Whether updates are being recorded."""
        return self._profile is not None

    def begin(self, step: int, updates: int) -> None:
        """Record the update that leads to `step` and those after it, `updates` in all."""
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities, record_shapes=True, profile_memory=True)
        self._first, self._left = step, updates
        self._profile.__enter__()

    def made_update(self) -> None:
        """Count an update; after the last one the trace is written."""
        self._left -= 1
        if self._left <= 0:
            self.end()

    def end(self) -> None:
        """Write the trace of what has been recorded."""
        if self._profile is None:
            return
        profile, self._profile = self._profile, None
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        profile.__exit__(None, None, None)
        path = self.folder / f"step-{self._first:07d}.json.gz"
        with atomic_path(path) as temporary:
            plain = temporary.with_suffix(".json")
            try:
                profile.export_chrome_trace(str(plain))
                with open(plain, "rb") as source, gzip.open(temporary, "wb", 6) as target:
                    shutil.copyfileobj(source, target)
            finally:
                plain.unlink(missing_ok=True)
        busy = "self_device_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
        table = profile.key_averages().table(sort_by=busy, row_limit=ROWS)
        write_atomic(path.with_name(f"step-{self._first:07d}.txt"), table + "\n")
        self._say(f"profile: {path} (open it in https://ui.perfetto.dev), and a table beside it")
