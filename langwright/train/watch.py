"""Someone who watches a run: losses that jump, updates that had to be skipped."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

from langwright.base import UserError
from langwright.dataset import Batch, Rows
from langwright.train.bad_batch import Findings, examine, write_bad_batch
from langwright.train.config import TrainConfig
from langwright.train.metrics import Record
from langwright.train.setup import Setup

WINDOW = 128  # updates that a loss is held against
ENOUGH = 20  # of them, before anything is called a spike
RECOVERED = 3.0  # deviations above the median at which a spike is over
LASTING = 64  # updates after which a loss that stays high is the new level
LEAST_LOSS_SPREAD = 0.005  # of the median: a very smooth curve may still move
LEAST_NORM_SPREAD = 0.25  # of the logarithm: gradients differ by that much in peace
KEPT_BATCHES = 16  # written down in a run


class SpikeWatch:
    """Tells when the loss or the gradient norm leaves what the last updates were like.

    A value is a spike if it lies more than `threshold` deviations above the median of the last
    128 good updates; a deviation is 1.4826 times the median distance from the median, which for
    normal noise is its standard deviation and which the spikes themselves hardly move. Norms are
    compared by their logarithm.

    Args:
        threshold: in deviations; None: nothing is a spike.
    """

    def __init__(self, threshold: float | None) -> None:
        self.threshold = threshold
        self.began: int | None = None  # the step at which the loss jumped, while it is high
        self.count = 0  # spikes of the loss so far
        self._updates = 0  # since it began
        self._losses: deque[float] = deque(maxlen=WINDOW)
        self._norms: deque[float] = deque(maxlen=WINDOW)

    def see(self, record: Record) -> str | None:
        """Take note of an update; mark its record, and return a sentence if there is news.

        A spike leaves ``loss_spike`` or ``norm_spike`` in the record, in deviations.
        """
        loss, norm = record.get("loss"), record.get("grad_norm")
        if self.threshold is None or loss is None or norm is None:
            return None
        self._see_norm(record, math.log(max(norm, 1e-30)))
        height = _deviations(loss, self._losses, LEAST_LOSS_SPREAD * abs(_middle(self._losses)))
        high = height > (self.threshold if self.began is None else RECOVERED)
        if not high:
            news = self._ended(record) if self.began is not None else None
            self._losses.append(loss)
            return news
        record["loss_spike"] = round(height, 1)
        if self.began is not None:
            return self._goes_on(record)
        self.began, self._updates = record["step"], 1
        self.count += 1
        return (
            f"step {record['step']:,}: the loss jumped to {loss:.3f}, from about "
            f"{median(self._losses):.3f} ({height:.0f} deviations)"
        )

    def remember(self, records: Iterable[Record]) -> None:
        """Take up where an earlier start of the run ended."""
        for record in records:
            if "loss" in record:
                self.see(dict(record))

    def _see_norm(self, record: Record, norm: float) -> None:
        height = _deviations(norm, self._norms, LEAST_NORM_SPREAD)
        if self.threshold is not None and height > self.threshold:
            record["norm_spike"] = round(height, 1)
        else:
            self._norms.append(norm)

    def _ended(self, record: Record) -> str:
        began, updates = self.began, self._updates
        self.began = None
        return (
            f"step {record['step']:,}: the loss is back at {record['loss']:.3f}, "
            f"{updates} update{'s' if updates > 1 else ''} after its jump at step {began:,}"
        )

    def _goes_on(self, record: Record) -> str | None:
        self._updates += 1
        if self._updates < LASTING:
            return None
        began, before = self.began, median(self._losses)
        self.began = None
        self._losses.clear()
        return (
            f"step {record['step']:,}: the loss has not come back since step {began:,} "
            f"({record['loss']:.3f}, before {before:.3f}). If the data did not change there, go "
            "back to a checkpoint before it with a lower lr or a stronger clip"
        )


class Watch:
    """Watches the records of a run, writes bad batches down, and stops it when it is hopeless.

    Args:
        setup: the run.
        rows: its data, from which a batch can be made again.
        config: its settings.
        folder: gets ``bad_batches/``.
        say: told in a line what happens.
        tokenizer: if there is one, the texts of a bad batch are written down too.
    """

    def __init__(
        self,
        setup: Setup,
        rows: Rows,
        config: TrainConfig,
        folder: Path,
        *,
        say: Callable[[str], None],
        tokenizer: Any = None,
    ) -> None:
        self.setup, self.rows, self.config = setup, rows, config
        self.folder = folder
        self.tokenizer = tokenizer
        self.spikes = SpikeWatch(config.spike_threshold)
        self._say = say
        self._kept = 0

    def saw(self, record: Record, loss: float, norm: float, bad_in_a_row: int) -> None:
        """Take note of an update's record, and add to it what is known.

        Args:
            loss, norm: as they came from the device, finite or not.
            bad_in_a_row: updates skipped up to this one, itself included.

        Raises:
            UserError: too many updates in a row were not finite.
        """
        if not record.get("skipped"):
            began = self.spikes.began
            news = self.spikes.see(record)
            if news is not None:
                if self.spikes.began is not None and began is None:
                    news += self._write_down(record, loss, norm, "the loss jumped")
                self._say(news)
            return
        what = "loss" if not math.isfinite(loss) else "gradient"
        last = bad_in_a_row >= self.config.max_bad_steps
        # fp16 finds its loss scale by overflowing gradients: nothing is wrong with those batches.
        expected = self.setup.updater.loss_scale is not None and what == "gradient"
        if last or (bad_in_a_row == 1 and not expected):
            kept = self._write_down(record, loss, norm, f"the {what} was not finite", last)
            if last:
                self._give_up(record["step"], bad_in_a_row, kept)
            self._say(f"step {record['step']:,}: the {what} was not finite, update skipped{kept}")

    def batch_of(self, step: int) -> tuple[int, Batch]:
        """(first row, batch) of the update that led to `step`, made again from the data."""
        source, first, count = self.setup.timeline.span(step - 1)
        return first, source.batch(first, count)

    def _write_down(
        self, record: Record, loss: float, norm: float, reason: str, always: bool = False
    ) -> str:
        """Keep the batch; returns what to tell about it."""
        form = self.setup.updater.form
        if not form.first or (self._kept >= KEPT_BATCHES and not always):
            return ""
        self._kept += 1
        step = record["step"]
        first, batch = self.batch_of(step)
        # Over many processes a forward pass is everyone's work, and nobody else is here.
        findings = Findings()
        if form.size == 1:
            findings = examine(self.setup.updater, step, batch, gradients=_look_at(loss, norm))
        about = {"step": step, "reason": reason, "loss": loss, "grad_norm": norm}
        path = write_bad_batch(self.folder, batch, first, about, findings, self.tokenizer)
        return f"; its batch is in {path}" + findings.told(first)

    def _give_up(self, step: int, count: int, kept: str) -> None:
        _, first, rows = self.setup.timeline.span(step - 1)
        raise UserError(
            f"the loss or its gradient was not finite in {count} updates in a row",
            where=f"step {step}: rows {first} to {first + rows - 1} of the data",
            found=f'lines with "skipped" in {self.folder / "metrics.jsonl"}{kept}',
            fix="a lower lr, a longer warm-up or precision = fp32; or look at those rows",
        )


def _look_at(loss: float, norm: float) -> bool:
    """Whether the gradients are what went wrong."""
    return math.isfinite(loss) and not math.isfinite(norm)


def _middle(values: deque[float]) -> float:
    return median(values) if values else 0.0


def _deviations(value: float, window: deque[float], least: float) -> float:
    """How far above the window's median, in deviations of at least `least`; 0 if it is short."""
    if len(window) < ENOUGH:
        return 0.0
    middle = median(window)
    spread = 1.4826 * median(abs(one - middle) for one in window)
    return (value - middle) / max(spread, least, 1e-12)
