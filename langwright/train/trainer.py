"""The one training loop. Every objective, every data set, every size of model goes through it."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from langwright.base import UserError, peak_memory_bytes, say
from langwright.dataset import Rows
from langwright.parallel import Alone, Distributed, process_group, world
from langwright.train.checkpoint import Checkpoint, restore_model
from langwright.train.choosing import FORWARD_SHARE, evaluation_interval
from langwright.train.config import TrainConfig
from langwright.train.feed import batches
from langwright.train.looks import Looks
from langwright.train.metrics import MetricsLog
from langwright.train.objective import Objective, language_model_loss
from langwright.train.report import Report
from langwright.train.saver import Saver
from langwright.train.setup import Setup, plain_again, prepare
from langwright.train.signals import StopSignals
from langwright.train.time_budget import TimeBudget


class Trainer:
    """Trains a model on rows, and can be killed and started again at any moment.

    The weights after step s are a function of the config, the data, the model's first weights, the
    choices in choices.json and the changes in changes.json; not of interruptions.

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
        fresh: the model's weights are those of `build_model` for the config's seed; it may then be
            on the meta device.

    Under torchrun every process makes a trainer with equal arguments. Only the first one prints and
    writes, and only its `model` gets the final weights.
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
        fresh: bool = False,
    ) -> None:
        self.world = world(config.device)
        self.fresh = fresh
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
        self.quiet = quiet or not self.world.first
        self.resumes = 0
        self._resumed: Checkpoint | None = None  # what this start goes on from
        self._seconds_before = 0.0  # in earlier starts of this run

    def run(self) -> dict[str, Any]:
        """Train to the end and return the metrics of the run; the model is then on the CPU.

        Raises:
            UserError: the settings cannot work, or losses stay non-finite.
            KeyboardInterrupt, SystemExit: stopped by Ctrl-C or SIGTERM, after saving a checkpoint;
                calling this again with the same arguments goes on.
        """
        self._started = time.perf_counter()
        try:
            with process_group(self.world):
                with StopSignals(self._say) as self.stop:
                    self._train()
                return self._finish()
        finally:
            plain_again(self.model)
            if not any(parameter.is_meta for parameter in self.model.parameters()):
                self.model.to("cpu").eval()

    def _train(self) -> None:
        """Prepare, go on from a checkpoint, run the loop."""
        self.setup = self._prepare()
        updater = self.setup.updater
        self.saver = Saver(self.checkpoints, self.form, updater.optimizer, self.config, self._say)
        start = self._resume()
        self.setup.changes.resume(start, self._evaluations(start))
        self._check_position(start)
        if self._stop_requested():
            self._say("stopped before the first step; the same command begins again")
            self.stop.leave()
        self.budget = self._time_budget()
        self.report = Report(
            self.setup,
            self.config,
            self.folder,
            start,
            rows=self.rows,
            tokenizer=self.tokenizer,
            seconds=self._seconds,
            trained=self.budget.trained,
            title=self.title,
            quiet=self.quiet,
        )
        self.looks = Looks(
            self.setup, self.config, self.report, self.saver, self.valid, self.tokenizer, self._say
        )
        try:
            self._loop(start)
        finally:
            try:
                self.saver.close()
            finally:
                self.report.close()

    @property
    def form(self) -> Alone:
        """How the work is spread over processes."""
        return self.setup.form

    # -- the loop ---------------------------------------------------------------------------------

    def _loop(self, start: int) -> None:
        setup, report = self.setup, self.report
        with report.bar:
            self.looks.catch_up(start)
            _, report.inspection.wanted = self._agreed(report.inspection.asked())
            report.restart_clock()
            for step, batch in enumerate(report.waiting(batches(setup, start)), start):
                self._tell_changes(step)
                with report.around(step + 1, batch):
                    outcome = setup.updater.update(step, batch, setup.set_pace(step))
                report.took(step + 1, outcome)
                self._housekeeping(step + 1)

    def _tell_changes(self, step: int) -> None:
        """Write down what changes with update `step`, once."""
        for record in self.setup.changes.before(step):
            whole = {**self.report.place(step), **record}
            known = (r for r in self.report.log.read() if "change" in r)
            if any(r["step"] == step and r["change"] == record["change"] for r in known):
                continue
            self.report.add(whole)
            what = ", ".join(f"{name} {value}" for name, value in record["change"].items())
            if "run_tokens" in record["change"]:
                total = self.setup.total_steps
                what += f", {total:,} steps in all"
                self.report.bar.update(total=self.setup.tokens(total))
            self._say(f"from step {step + 1:,} on: {what} ({record['reason']})")

    def _housekeeping(self, step: int) -> None:
        """What may be due after `step` updates: metrics, a checkpoint, an evaluation, a stop."""
        now = time.perf_counter()
        save_due, look_saves = self.saver.due(step)
        asked = self.setup.changes.asked(now)
        shorter = self.budget.late(step, self._seconds()) if self.form.first else None
        flush, inspection = self.report.flush_due(now), self.report.inspection
        inspect = step < self.setup.total_steps and inspection.asked()
        flags = save_due, look_saves, asked, shorter is not None, flush, inspect
        stop, save, look_saves, asked, late, flush, inspection.wanted = self._agreed(*flags)
        if asked:
            self.setup.changes.look(step)
        if late:
            self.setup.changes.shorten(step, shorter)
        last = step >= self.setup.total_steps
        look = self.looks.due(step)
        save = save or last or stop
        if not (save or look):
            if flush:
                self.report.flush(wait=False)
            return
        self.report.flush()
        begun = time.perf_counter()
        if save or look_saves:
            self._save(step)
        if look:
            self.looks.take(step)
        self.budget.paused(time.perf_counter() - begun, looked=look)
        if self._stop_requested() and not last:
            self._leave(step)
        self.report.restart_clock()

    def _stop_requested(self) -> bool:
        """Whether some process has been asked to stop."""
        return self._agreed()[0]

    def _agreed(self, *flags: bool) -> tuple[bool, ...]:
        """Whether to stop (if any process was asked to), then the first process's flags."""
        own = [flag and self.form.first for flag in flags]
        stop, *others = self.form.any(self.stop.requested is not None, *own)
        if stop and self.stop.requested is None:
            self.stop.requested = signal.SIGTERM
        return stop, *others

    def _leave(self, step: int) -> None:
        """Stop as the signal asks, with everything saved."""
        if not self.saver.saved(step):
            self._save(step)
        where = f"saved in {self.checkpoints}" if self.saver.saved(step) else "not saved"
        self._say(
            f"stopped after step {step:,} of {self.setup.total_steps:,}, {where}; the same "
            "command goes on from the last checkpoint"
        )
        self.stop.leave()

    # -- checkpoints ------------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        updater = self.setup.updater
        state = {
            "tokens": self.setup.tokens(step),
            "seconds": self._seconds(),
            "resumes": self.resumes,
            "loss_scale": updater.loss_scale.state_dict() if updater.loss_scale else None,
            "micro_batch_rows": updater.micro_rows,
            "key": self.setup.choices.key,
        }
        self.saver.save(step, state)

    def _resume(self) -> int:
        """Restore the newest whole checkpoint, if any; returns the updates already made."""
        found = self._resumed = self.saver.newest()
        if found is None:
            return 0
        state, updater = found.state, self.setup.updater
        if state["key"] != self.setup.choices.key:
            raise UserError(
                "the checkpoint belongs to a run with other settings, data or model",
                where=found.path,
                fix="choose another folder, or delete the checkpoints",
            )
        self.saver.restore(found)
        updater.micro_rows = min(updater.micro_rows, state["micro_batch_rows"])
        if updater.loss_scale is not None:
            updater.loss_scale.load_state_dict(state["loss_scale"])
        self.resumes = state["resumes"] + 1
        self._seconds_before = state["seconds"]
        self._started = time.perf_counter()
        self._say(f"going on from step {state['step']:,} of {self.setup.total_steps:,}")
        return int(state["step"])

    def _check_position(self, start: int) -> None:
        """The position in the data follows from the number of updates and the changes on the way:
        these must be those that the checkpoint was made with, by its count of tokens.

        Raises:
            UserError: they are not.
        """
        if self._resumed is None:
            return
        tokens, saved = self.setup.tokens(start), self._resumed.state["tokens"]
        if tokens != saved:
            raise UserError(
                "the data would go on at another place than where the checkpoint was saved",
                where=self._resumed.path,
                found=f"{tokens:,} tokens in {start:,} updates, by the settings and the changes "
                "of batch in changes.json and metrics.jsonl",
                expected=f"{saved:,} tokens",
                fix="put both files back as they were; or, if a change of batch was rounded to the "
                "number of processes, take as many of them as before; or begin again elsewhere",
            )

    def _evaluations(self, start: int) -> list[dict[str, Any]]:
        """Validation losses that earlier starts of this run have written down."""
        log = MetricsLog(self.folder / "metrics.jsonl")
        found = [r for r in log.read() if "valid_loss" in r and r["step"] <= start]
        return self.form.agree([{n: r[n] for n in ("step", "valid_loss")} for r in found])

    # -- beginning and end ------------------------------------------------------------------------

    @property
    def _valid_rows(self) -> int:
        """Rows looked at by one evaluation."""
        limit = self.config.evaluate_rows
        return sum(min(rows.epoch_rows or 10**9, limit or 10**9) for rows in self.valid.values())

    def _time_budget(self) -> TimeBudget:
        minutes = self.config.minutes
        every = evaluation_interval(self.config, self.setup.changes.planned_steps)
        return TimeBudget(
            None if minutes is None else 60.0 * minutes,
            self.setup,
            look_rows=FORWARD_SHARE * self._valid_rows,
            every=every if self.valid else None,
        )

    def _prepare(self) -> Setup:
        return prepare(
            self.model,
            self.rows,
            self.config,
            self.objective,
            self.folder / "choices.json",
            valid_rows=self._valid_rows,
            started=self._started,
            say=self._say,
            world=self.world,
            fresh=self.fresh,
        )

    def _finish(self) -> dict[str, Any]:
        history, tokens = self.report.history, self.setup.tokens(self.setup.total_steps)
        best_step = self.form.agree(history.best_step)
        if self.config.final == "best" and best_step is not None:
            step = self.saver.restore_best()
            self._say(f"result: the weights of step {step:,}, the best in validation")
        self._bring_home()
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
            "loss_spikes": self.report.watch.spikes.count,
            "resumes": self.resumes,
            "failed_saves": self.saver.failed,
        }

    def _bring_home(self) -> None:
        """Put the final weights into the model that was given, on the first process."""
        if not isinstance(self.form, Distributed):
            return
        weights = self.form.full_state()
        if self.form.first:
            self.model.to_empty(device="cpu")
            restore_model(self.model, weights)

    def _seconds(self) -> float:
        """Seconds of this run so far, all its starts together (up to their checkpoints)."""
        return self._seconds_before + time.perf_counter() - self._started

    def _say(self, text: str) -> None:
        if not self.quiet:
            say(text)
