"""What a run tells: lines of metrics.jsonl, the progress bar, and other sinks."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from langwright.base import Progress, UserError, say
from langwright.model import ModelConfig, flops_per_token
from langwright.optim import schedule
from langwright.train.config import TrainConfig
from langwright.train.metrics import History, MetricsLog, Record
from langwright.train.setup import Setup, peak_rate
from langwright.train.sinks import Sink, open_sinks
from langwright.train.update import Outcome

FLUSH_SECONDS = 0.5  # between two looks at the device's results


class Report:
    """Collects the outcomes of updates and tells them, a few at a time.

    Outcomes stay on the device until `flush`, which waits for it once for all of them.

    Args:
        setup: the run.
        config: its settings.
        folder: gets metrics.jsonl.
        start: updates made by earlier starts; later lines of metrics.jsonl are dropped.
        seconds: gives the seconds that the run has taken so far, all starts together.
        title: of the progress bar.
        quiet: print nothing.
    """

    def __init__(
        self,
        setup: Setup,
        config: TrainConfig,
        folder: Path,
        start: int,
        *,
        seconds: Callable[[], float],
        title: str,
        quiet: bool,
    ) -> None:
        self.setup = setup
        self.config = config
        self.history = History()
        self.log = MetricsLog(folder / "metrics.jsonl")
        for record in self.log.cut_back(start):
            self.history.add(record)
        self.rate = 0.0  # tokens per second since the last flush
        self._trained = (0, 0.0)  # tokens and seconds of this start, evaluations left out
        self._seconds = seconds
        self._peak = peak_rate(setup.choices)
        self._sinks: list[Sink] = open_sinks(config, folder, start)
        self._peak_lr = config.optim.peak_lr
        self._multiplier = schedule(config.schedule, setup.total_steps)
        self._loss_scale: float | None = None  # at the last flush
        self._pending: list[tuple[Record, Outcome]] = []
        self._quiet = quiet
        self.bar = Progress(
            title,
            total=setup.total_steps * setup.batch_tokens,
            unit="tokens",
            quiet=quiet,
            already=start * setup.batch_tokens,
        )
        self.restart_clock()

    def close(self) -> None:
        """Close the sinks."""
        for sink in self._sinks:
            sink.close()

    def restart_clock(self) -> None:
        """Leave what happened since the last flush out of the speed."""
        self._since = time.perf_counter()

    def took(self, step: int, outcome: Outcome) -> None:
        """Note the outcome of an update; `step` updates have now been made."""
        self._pending.append((self.place(step), outcome))

    def flush_due(self, now: float) -> bool:
        """Whether it is time to look at the device's results."""
        return now - self._since >= FLUSH_SECONDS

    def flush(self) -> None:
        """Write what the updates since the last time reported.

        Raises:
            UserError: too many of them in a row were not finite.
        """
        if not self._pending:
            return
        values = torch.stack([outcome.stacked() for _, outcome in self._pending]).tolist()
        now = time.perf_counter()
        tokens = len(self._pending) * self.setup.batch_tokens
        loss_scale = self.setup.updater.loss_scale
        self._loss_scale = None if loss_scale is None else loss_scale.scale.item()
        spent = max(1e-9, now - self._since)
        self.rate = tokens / spent
        self._trained = (self._trained[0] + tokens, self._trained[1] + spent)
        self._since = now
        records = [
            self._update_record(step, *numbers) for (step, _), numbers in zip(self._pending, values)
        ]
        self._pending = []
        every = self.config.log_every
        self.write([r for r in records if r["step"] % every == 0 or "skipped" in r])
        for record in records:
            self.history.add(record)
            if self.history.bad_in_a_row >= self.config.max_bad_steps:
                self._give_up(record["step"])
        self.bar.advance(tokens, **self._fields(records[-1]))

    def add(self, record: Record) -> None:
        """Write a record of an evaluation or of samples, and tell if validation has stalled."""
        self.history.add(record)
        self.write([record])
        if (note := self.history.stall_note()) is not None:
            self.say(note)

    def write(self, records: list[Record]) -> None:
        """Append records to metrics.jsonl and the sinks."""
        if records:
            self.log.write(records)
            for sink in self._sinks:
                sink.write(records)

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        if not self._quiet:
            say(text)

    def place(self, step: int) -> Record:
        """What every record begins with."""
        return {
            "step": step,
            "tokens": step * self.setup.batch_tokens,
            "seconds": round(self._seconds(), 3),
        }

    @property
    def mean_rate(self) -> float | None:
        """Tokens per second of this start, evaluations and checkpoints left out."""
        tokens, seconds = self._trained
        return tokens / seconds if tokens else None

    def peak_share(self, rate: float | None) -> float | None:
        """Share of the measured matmul rate that training at `rate` tokens/s makes use of."""
        if rate is None or self._peak is None or self._flops_per_token is None:
            return None
        return rate * self._flops_per_token / self._peak

    @functools.cached_property
    def _flops_per_token(self) -> float | None:
        """FLOPs of training on one token (6 N + 12 L D T), if the model's config can tell."""
        config = getattr(self.setup.updater.model, "config", None)
        if not isinstance(config, ModelConfig):
            return None
        return flops_per_token(config, self.setup.row_tokens)

    def _update_record(self, place: Record, loss: float, norm: float, bad: float) -> Record:
        record = {
            **place,
            "loss": None if bad else loss,
            "lr": self._peak_lr * self._multiplier(place["step"] - 1),
            "grad_norm": None if bad else norm,
            "tokens_per_second": round(self.rate, 1),
        }
        if (share := self.peak_share(self.rate)) is not None:
            record["mfu"] = round(share, 4)
        if bad:
            record["skipped"] = True
        if self._loss_scale is not None:
            record["loss_scale"] = self._loss_scale
        return record

    def _fields(self, record: Record) -> dict[str, Any]:
        loss, valid = self.history.last_loss, self.history.last_valid
        fields = {
            "step": f"{record['step']:,}/{self.setup.total_steps:,}",
            "loss": "-" if loss is None else f"{loss:.3f}",
        }
        if valid is not None:
            fields["valid"] = f"{valid['valid_loss']:.3f}"
        if "mfu" in record:
            fields["of_peak"] = f"{100 * record['mfu']:.0f} %"
        return fields

    def _give_up(self, step: int) -> None:
        rows = self.setup.batch_rows
        raise UserError(
            f"the loss or its gradient was not finite in {self.history.bad_in_a_row} updates "
            "in a row",
            where=f"step {step}: rows {(step - 1) * rows} to {step * rows - 1} of the data",
            found=f'lines with "skipped" in {self.log.path}',
            fix="a lower lr, a longer warm-up or precision = fp32; or look at those rows",
        )
