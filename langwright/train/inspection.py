"""Looks into single updates that were asked for: statistics and traces.

They are asked for by the config, or while the run goes on by an empty file of their name beside
metrics.jsonl (``touch RUN/pretrain.partial/statistics``, or ``profile``), which is deleted when it
has been seen.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from langwright.dataset import Batch
from langwright.train.config import TrainConfig
from langwright.train.metrics import Record
from langwright.train.profiler import Profiler
from langwright.train.statistics import Statistics
from langwright.train.update import Updater

LOOK_SECONDS = 0.5  # between two looks for a request


class Inspection:
    """What is due at which update.

    Args:
        updater: of the run.
        config: its settings.
        folder: that of metrics.jsonl.
        start: updates made by earlier starts.
        say: told where things are.
    """

    def __init__(
        self,
        updater: Updater,
        config: TrainConfig,
        folder: Path,
        start: int,
        say: Callable[[str], None],
    ) -> None:
        self.updater, self.config, self.folder = updater, config, folder
        self.statistics = Statistics(updater, folder, start)
        self.profiler = Profiler(folder, updater.device, say)
        self.wanted = False  # statistics of the next update, by request; alike on all processes
        self._profile = False  # a trace of the next updates, by request
        self._looked = 0.0

    def asked(self) -> bool:
        """Whether statistics have been asked for since the last time. Only the first process looks;
        the others must hear of it, for all take part (`wanted`). A trace it takes by itself."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS or not self.updater.form.first:
            return False
        self._looked = now
        self._profile = self._profile or self._taken("profile")
        return self._taken("statistics")

    @contextlib.contextmanager
    def around(self, place: Record, batch: Batch) -> Iterator[None]:
        """Look at the update made inside, if that is due; `place` is how its record begins."""
        step, config = place["step"], self.config
        wanted, self.wanted = self.wanted, False
        profile, self._profile = self._profile or step == config.profile_at, False
        if profile and self.updater.form.first and not self.profiler.running:
            self.profiler.begin(step, config.profile_steps)
        every = config.statistics_every
        with contextlib.ExitStack() as stack:
            if wanted or (every is not None and step % every == 0):
                stack.enter_context(self.statistics.of(place, batch))
            yield
        if self.profiler.running:
            self.profiler.made_update()

    def close(self) -> None:
        """Write what has been recorded so far."""
        self.profiler.end()

    def _taken(self, name: str) -> bool:
        """Whether there was a request of this name; there is none any more."""
        path = self.folder / name
        there = path.is_file()
        if there:
            path.unlink(missing_ok=True)
        return there
