"""What a run tells: lines of metrics.jsonl, the progress bar, and other sinks."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch

from langwright.base import Progress, UserError, say
from langwright.dataset import Batch, Rows
from langwright.model import ModelConfig, flops_per_token
from langwright.train.arrivals import Arrival, Arrivals
from langwright.train.choosing import peak_rate
from langwright.train.config import TrainConfig
from langwright.train.inspection import Inspection
from langwright.train.metrics import History, MetricsLog, Record
from langwright.train.setup import Setup
from langwright.train.sinks import Sink, open_sinks
from langwright.train.update import Outcome
from langwright.train.watch import Watch

FLUSH_SECONDS = 0.5  # between two looks at the device's results
NEWS = frozenset({"skipped", "loss_spike"})  # records with these are written whatever `log_every`


class Report:
    """Collects the outcomes of updates and tells them, a few at a time.

    Outcomes stay on the device until `flush` sends for them; on a GPU nobody waits for them.

    Args:
        setup: the run.
        config: its settings.
        folder: gets metrics.jsonl.
        start: updates made by earlier starts; later lines of metrics.jsonl are dropped.
        rows: its data.
        tokenizer: if there is one; for the texts of batches that are written down.
        seconds: gives the seconds that the run has taken so far, all starts together.
        trained: told of updates that have ended: their tokens, and the seconds they took.
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
        rows: Rows,
        tokenizer: Any,
        seconds: Callable[[], float],
        trained: Callable[[int, float], None],
        title: str,
        quiet: bool,
    ) -> None:
        self.setup = setup
        self.config = config
        self._quiet = quiet
        self.watch = Watch(setup, rows, config, folder, say=self.say, tokenizer=tokenizer)
        self.inspection = Inspection(setup.updater, config, folder, start, self.say)
        self.history = History()
        self.log = MetricsLog(folder / "metrics.jsonl", self.say)
        self._first = setup.updater.form.first  # of many processes only the first one writes
        before = self.log.cut_back(start) if self._first else self.log.up_to(start)
        for record in before:
            self.history.add(record)
        self.watch.spikes.remember(before)
        self.rate = 0.0  # tokens per second of the updates told last
        self._told_trained = trained
        self._trained = (0, 0.0)  # tokens and seconds of this start, evaluations left out
        self._seconds = seconds
        self._peak = _peak_of_all(setup)
        self._sinks: list[Sink] = open_sinks(config, folder, start, self.say) if self._first else []
        self._peak_lr = config.optim.peak_lr
        self._arrivals = Arrivals(setup.updater.device)
        self._waited = 0.0  # seconds for data since the last flush
        self.bar = Progress(
            title,
            total=setup.tokens(setup.total_steps),
            unit="tokens",
            quiet=quiet,
            already=setup.tokens(start),
        )
        self.restart_clock()

    def close(self) -> None:
        """Write what is left, and close the sinks."""
        self.inspection.close()
        for sink in self._sinks:
            sink.close()

    def restart_clock(self) -> None:
        """Leave what happened since the last flush out of the speed."""
        self._looked = time.perf_counter()
        self._waited = 0.0
        self._arrivals.restart_clock()

    def waiting(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, while the time that each is waited for is measured."""
        source = iter(batches)
        while True:
            begun = time.perf_counter()
            batch = next(source, None)
            self._waited += time.perf_counter() - begun
            if batch is None:
                return
            yield batch

    def around(self, step: int, batch: Batch) -> AbstractContextManager[None]:
        """The update that leads to `step` is made inside; it is looked into if that is due."""
        return self.inspection.around(self.place(step), batch)

    def took(self, step: int, outcome: Outcome) -> None:
        """Note the outcome of an update; `step` updates have now been made."""
        values = outcome.stacked()
        if (loss_scale := self.setup.updater.loss_scale) is not None:
            values = torch.cat([values, loss_scale.scale.view(1)])
        self._arrivals.add(self.place(step), values)

    def flush_due(self, now: float) -> bool:
        """Whether it is time to look at the device's results, by this process's clock."""
        return now - self._looked >= FLUSH_SECONDS

    def flush(self, *, wait: bool = True) -> None:
        """Write what the updates since the last time reported. All processes call this together.

        Args:
            wait: for all results; else those are written that have come by themselves.

        Raises:
            UserError: too many of them in a row were not finite, as the first process sees it: on
                the others more or fewer results may have come by now. All raise the same.
        """
        self._looked = time.perf_counter()
        ended: UserError | None = None
        try:
            for arrival in self._arrivals.take(wait=wait):
                self._tell(arrival)
        except UserError as error:
            ended = error
        said = self.setup.updater.form.agree(None if ended is None else vars(ended))
        if said is not None:
            raise UserError(**said) from ended

    def _tell(self, arrival: Arrival) -> None:
        first, last = arrival.labels[0]["step"] - 1, arrival.labels[-1]["step"]
        tokens = self.setup.tokens(last) - self.setup.tokens(first)
        spent = max(1e-9, arrival.seconds)
        self.rate = tokens / spent
        self._trained = (self._trained[0] + tokens, self._trained[1] + spent)
        self._told_trained(tokens, spent)
        records = []
        try:
            for place, (loss, norm, bad, *scale) in zip(arrival.labels, arrival.values):
                record = self._update_record(place, loss, norm, bad, *scale)
                records.append(record)
                self.history.add(record)
                self.watch.saw(record, loss, norm, self.history.bad_in_a_row)
        finally:
            if records:
                records[-1] |= self._cost_fields(spent)
            self.write([r for r in records if self._worth_a_line(r)])
        self.bar.advance(tokens, **self._fields(records[-1]))

    def _worth_a_line(self, record: Record) -> bool:
        return record["step"] % self.config.log_every == 0 or not NEWS.isdisjoint(record)

    def _cost_fields(self, spent: float) -> Record:
        """What the updates since the last time cost besides time."""
        waited, self._waited = self._waited, 0.0
        fields: Record = {"data_wait": round(min(1.0, waited / spent), 4)}  # share of the time
        if self.setup.updater.device.type == "cuda":
            fields["memory_bytes"] = torch.cuda.max_memory_allocated(self.setup.updater.device)
        return fields

    def add(self, record: Record) -> None:
        """Write a record of an evaluation or of samples, and tell if validation has stalled."""
        self.history.add(record)
        self.write([record])
        if (note := self.history.stall_note()) is not None:
            self.say(note)

    def write(self, records: list[Record]) -> None:
        """Append records to metrics.jsonl and the sinks."""
        if records and self._first:
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
            "tokens": self.setup.tokens(step),
            "seconds": round(self._seconds(), 3),
        }

    @property
    def mean_rate(self) -> float | None:
        """Tokens per second of this start, evaluations and checkpoints left out."""
        tokens, seconds = self._trained
        return tokens / seconds if tokens else None

    def peak_share(self, rate: float | None) -> float | None:
        """Share of the measured matmul rate of all processes that training at `rate` tokens/s (of
        all of them) makes use of. Processes that share a machine's cores measure at the same time,
        each with its own threads."""
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

    def _update_record(
        self, place: Record, loss: float, norm: float, bad: float, loss_scale: float | None = None
    ) -> Record:
        record = {
            **place,
            "loss": None if bad else loss,
            "lr": self._peak_lr * self.setup.multiplier(place["step"] - 1),
            "grad_norm": None if bad else norm,
            "tokens_per_second": round(self.rate, 1),
        }
        if (share := self.peak_share(self.rate)) is not None:
            record["mfu"] = round(share, 4)
        if bad:
            record["skipped"] = True
        if loss_scale is not None:
            record["loss_scale"] = loss_scale
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


def _peak_of_all(setup: Setup) -> float | None:
    """The matmul rates (FLOP/s) of all processes together, see `peak_rate`."""
    form = setup.updater.form
    form.wait()  # whoever shares cores with others gets no more of them while it measures
    rates = form.gather(peak_rate(setup.choices))
    return None if None in rates else sum(rates)
