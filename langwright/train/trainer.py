"""The one training loop. Every objective, every data set, every size of model goes through it."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from langwright.base import UserError, peak_memory_bytes, say
from langwright.dataset import Batch, Prefetcher, Rows
from langwright.optim import schedule
from langwright.train.checkpoint import (
    BEST,
    keep_newest,
    newest_checkpoint,
    open_checkpoint,
    restore_model,
    save_best,
    save_checkpoint,
)
from langwright.train.compiling import undo_compile
from langwright.train.config import TrainConfig
from langwright.train.looks import draw_samples, evaluate_all, told
from langwright.train.objective import Objective, language_model_loss
from langwright.train.report import Report
from langwright.train.setup import Setup, evaluation_interval, prepare
from langwright.train.signals import StopSignals

SAVE_SHARE = 0.02  # of the time may go into saving


class Trainer:
    """Trains a model on rows, and can be killed and started again at any moment.

    The weights after step s are a function of the config, the data, the model's first weights and
    the choices in choices.json; not of interruptions.

    Args:
        model: fp32 parameters; has `compute_dtype`, and `loss` for the usual objective.
        rows: what to train on; step s takes rows s*R to s*R + R - 1 (R rows per batch).
        config: how.
        folder: gets metrics.jsonl, choices.json and checkpoints/. If it holds a run that was
            interrupted, that run goes on.
        valid: rows to validate on, by name.
        objective: what is minimised.
        tokenizer: needed for samples.
        title: stands beside the progress bar.
        quiet: print nothing.
    """

    def __init__(
        self,
        model: Any,
        rows: Rows,
        config: TrainConfig,
        folder: str | Path,
        *,
        valid: Mapping[str, Rows] | None = None,
        objective: Objective = language_model_loss,
        tokenizer: Any = None,
        title: str = "train",
        quiet: bool = False,
    ) -> None:
        if objective is language_model_loss and config.chunk_tokens is not None:
            objective = functools.partial(language_model_loss, chunk_tokens=config.chunk_tokens)
        if config.sample_prompts and tokenizer is None:
            raise UserError("samples need a tokenizer", where="sample_prompts")
        self.model: nn.Module = model
        self.rows = rows
        self.config = config
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"
        self.valid = dict(valid or {})
        self.objective = objective
        self.tokenizer = tokenizer
        self.title = title
        self.quiet = quiet
        self.resumes = 0
        self._seconds_before = 0.0  # in earlier starts of this run

    def run(self) -> dict[str, Any]:
        """Train to the end and return the metrics of the run; the model is then on the CPU.

        Raises:
            UserError: the settings cannot work, or losses stay non-finite.
            KeyboardInterrupt, SystemExit: stopped by Ctrl-C or SIGTERM, after saving a checkpoint;
                calling this again with the same arguments goes on.
        """
        self._started = time.perf_counter()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with StopSignals(self._say) as self.stop:
                self.setup = self._prepare()
                start = self._resume()
                if self.stop.requested is not None:
                    self._say("stopped before the first step; the same command begins again")
                    self.stop.leave()
                self.report = Report(
                    self.setup,
                    self.config,
                    self.folder,
                    start,
                    seconds=self._seconds,
                    title=self.title,
                    quiet=self.quiet,
                )
                try:
                    self._loop(start)
                finally:
                    self.report.close()
            return self._finish()
        finally:
            undo_compile(self.model)
            self.model.to("cpu").eval()

    # -- the loop ---------------------------------------------------------------------------------

    def _loop(self, start: int) -> None:
        setup, report = self.setup, self.report
        multiplier = schedule(self.config.schedule, setup.total_steps)
        with report.bar:
            self._catch_up(start)
            report.restart_clock()
            for step, batch in enumerate(self._batches(start), start):
                outcome = setup.updater.update(step, batch, multiplier(step))
                report.took(step + 1, outcome)
                self._housekeeping(step + 1)

    def _batches(self, start: int) -> Iterator[Batch]:
        """The global batches from step `start` on; made ahead of time if the device is not the CPU
        (there it would take the cores from the training itself)."""
        rows, steps = self.setup.batch_rows, self.setup.total_steps
        if self.setup.updater.device.type == "cpu":
            for step in range(start, steps):
                yield self.rows.batch(step * rows, rows)
            return
        with Prefetcher(self.rows, start * rows, rows, steps=steps - start) as batches:
            yield from batches

    def _housekeeping(self, step: int) -> None:
        """What may be due after `step` updates: metrics, a checkpoint, an evaluation, a stop."""
        now = time.perf_counter()
        last = step == self.setup.total_steps
        look, stop = self._look_due(step), self.stop.requested is not None
        save = last or stop or self._save_due(step, now)
        if not (save or look):
            if self.report.flush_due(now):
                self.report.flush()
            return
        self.report.flush()
        # Before an evaluation a checkpoint is written too, if the last one has paid for itself.
        when, cost = self._last_save
        if save or now - when >= cost / SAVE_SHARE:
            self._save(step)
        if look:
            self._look(step)
        if self.stop.requested is not None and not last:
            self._leave(step)
        self.report.restart_clock()

    def _leave(self, step: int) -> None:
        """Stop as the signal asks, with everything saved."""
        if not (self.checkpoints / f"step-{step:07d}").exists():
            self._save(step)
        self._say(
            f"stopped after step {step:,} of {self.setup.total_steps:,}, saved in "
            f"{self.checkpoints}; the same command goes on from here"
        )
        self.stop.leave()

    # -- evaluation and samples -------------------------------------------------------------------

    def _look_due(self, step: int) -> bool:
        return self._evaluation_due(step) or self._samples_due(step)

    def _evaluation_due(self, step: int) -> bool:
        every = evaluation_interval(self.config, self.setup.total_steps)
        return bool(self.valid) and self._turn(step, every)

    def _samples_due(self, step: int) -> bool:
        every = self.config.sample_every
        if every == 0 or not self.config.sample_prompts:
            return False
        if every is None:
            every = evaluation_interval(self.config, self.setup.total_steps)
        return self._turn(step, every)

    def _turn(self, step: int, every: int) -> bool:
        return step == self.setup.total_steps or (every > 0 and step % every == 0)

    def _look(self, step: int) -> None:
        """Evaluate and draw samples. The record is written when all is done, so that a look that
        was cut short is made again after a resume."""
        report = self.report
        record = report.place(step)
        if self._evaluation_due(step):
            losses = evaluate_all(self.model, self.valid, self.config.evaluate_rows)
            record |= losses
            if report.history.is_best(losses["valid_loss"]):
                save_best(self.checkpoints, self.model, {"step": step, **losses})
            self._say(f"step {step:,}: " + told(losses))
        if self._samples_due(step):
            record["samples"] = draw_samples(self.model, self.tokenizer, self.config)
            for sample in record["samples"]:
                self._say("sample: " + " ".join((sample["prompt"] + sample["text"]).split()))
        report.add(record)

    def _catch_up(self, step: int) -> None:
        """The look that was due at the checkpoint may not have been taken before the kill."""
        if step == 0 or not self._look_due(step):
            return
        looks = (r for r in self.report.log.read() if "valid_loss" in r or "samples" in r)
        if not any(record["step"] == step for record in looks):
            self._look(step)

    # -- checkpoints ------------------------------------------------------------------------------

    def _save_due(self, step: int, now: float) -> bool:
        when, cost = self._last_save
        every = self.config.checkpoint_every
        interval = max(60.0 * self.config.checkpoint_minutes, cost / SAVE_SHARE)
        return now - when >= interval or bool(every and step % every == 0)

    def _save(self, step: int) -> None:
        begun = time.perf_counter()
        updater = self.setup.updater
        state = {
            "tokens": step * self.setup.batch_tokens,
            "seconds": self._seconds(),
            "resumes": self.resumes,
            "loss_scale": updater.loss_scale.state_dict() if updater.loss_scale else None,
            "micro_batch_rows": updater.micro_rows,
            "key": self.setup.choices.key,
        }
        save_checkpoint(self.checkpoints, step, self.model, updater.optimizer.state_dict(), state)
        keep_newest(self.checkpoints, self.config.keep_last)
        ended = time.perf_counter()
        self._last_save = (ended, ended - begun)

    def _resume(self) -> int:
        """Restore the newest whole checkpoint, if any; returns the updates already made."""
        self._last_save = (time.perf_counter(), 0.0)  # when, and how long it took
        found = newest_checkpoint(self.checkpoints, self._say)
        if found is None:
            return 0
        state, updater = found.state, self.setup.updater
        if state["key"] != self.setup.choices.key:
            raise UserError(
                "the checkpoint belongs to a run with other settings, data or model",
                where=found.path,
                fix="choose another folder, or delete the checkpoints",
            )
        restore_model(self.model, found.weights(), found.path)
        updater.optimizer.load_state_dict(found.optimizer())
        updater.micro_rows = state["micro_batch_rows"]
        if updater.loss_scale is not None:
            updater.loss_scale.load_state_dict(state["loss_scale"])
        self.resumes = state["resumes"] + 1
        self._seconds_before = state["seconds"]
        self._started = time.perf_counter()
        self._say(f"going on from step {state['step']:,} of {self.setup.total_steps:,}")
        return int(state["step"])

    # -- beginning and end ------------------------------------------------------------------------

    def _prepare(self) -> Setup:
        limit = self.config.evaluate_rows
        sizes = [min(rows.epoch_rows or 10**9, limit or 10**9) for rows in self.valid.values()]
        return prepare(
            self.model,
            self.rows,
            self.config,
            self.objective,
            self.folder / "choices.json",
            valid_rows=sum(sizes),
            started=self._started,
            say=self._say,
        )

    def _finish(self) -> dict[str, Any]:
        history, tokens = self.report.history, self.setup.total_steps * self.setup.batch_tokens
        if self.config.final == "best" and history.best_step is not None:
            best = open_checkpoint(self.checkpoints / BEST)
            restore_model(self.model, best.weights(), best.path)
            self._say(f"result: the weights of step {history.best_step:,}, the best in validation")
        seconds = self._seconds()
        device = str(self.setup.updater.device)
        last = history.last_valid or {"valid_loss": None}
        return {
            "steps": self.setup.total_steps,
            "tokens": tokens,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "train_loss": history.train_loss,
            **{name: value for name, value in last.items() if name.startswith("valid_")},
            "best_valid_loss": history.best_loss,
            "best_step": history.best_step,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),  # all counted in
            "training_tokens_per_second": self.report.mean_rate,  # evaluations left out
            "mfu": self.report.peak_share(self.report.mean_rate),
            "peak_memory_bytes": peak_memory_bytes(device),
            "non_finite_steps": history.bad_steps,
            "resumes": self.resumes,
        }

    def _seconds(self) -> float:
        """Seconds of this run so far, all its starts together (up to their checkpoints)."""
        return self._seconds_before + time.perf_counter() - self._started

    def _say(self, text: str) -> None:
        if not self.quiet:
            say(text)
