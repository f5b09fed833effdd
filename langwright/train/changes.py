"""Changes of rate, batch, mix and length during a run: planned, by rule, by hand, or because
the time given would not suffice (time_budget.py).

By hand: write ``change.toml`` beside metrics.jsonl, for example::

    lr_factor = 0.5
    mix = { web = 0.7, code = 0.3 }
    at_step = 5000          # left out: with the next update

It is taken from there, and kept in changes.json with the step at which it came into effect. So a
run that goes on after an interruption makes the same change at the same update. Planned changes
and rules (the config's `changes`) need no file: they follow from the settings and the validation
losses in metrics.jsonl. A run that was shortened to end in time is in changes.json too: when it
goes on it is shortened at the same update, whatever the clock says then.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langwright.base import UserError, read_json, write_json
from langwright.parallel import Alone
from langwright.train.change_config import ChangeConfig
from langwright.train.timeline import Timeline

BY_HAND, KEPT = "change.toml", "changes.json"
LOOK_SECONDS = 0.5  # between two looks for a change by hand


@dataclass(frozen=True)
class Made:
    """A change that came, or will come, into effect before update `step`."""

    step: int
    change: ChangeConfig
    reason: str | None = None  # where the change itself does not say it

    def record(self) -> dict[str, Any]:
        """What a line of metrics.jsonl says of it."""
        return {"change": self.change.what, "reason": self.reason or self.change.when}


class Changes:
    """Keeps a run's timeline in line with all changes.

    Args:
        planned: the config's.
        timeline: changed in place.
        peak_lr: the config's peak learning rate.
        folder: looked at for changes by hand.
        form: of the work over processes: the first one looks, all do alike.
        say: told what was refused.
    """

    def __init__(
        self,
        planned: Iterable[ChangeConfig],
        timeline: Timeline,
        peak_lr: float,
        folder: Path,
        form: Alone,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        config = list(planned)
        self.timeline, self.peak_lr, self.folder = timeline, peak_lr, folder
        self.form, self.say = form, say
        self.planned = [c for c in config if c.at is not None or c.at_step is not None]
        self.rules = [Rule(c) for c in config if c.plateau is not None or c.below is not None]
        if len(self.planned) + len(self.rules) < len(config):
            raise UserError(
                "a change has no time", where="changes", fix="give at, at_step, plateau or below"
            )
        self._asked = -LOOK_SECONDS
        self.made: list[Made] = []  # by rule and by hand
        self.effective: list[Made] = []  # all, in order
        for rule in self.rules:
            self._try(Made(0, rule.change))
        self._lay_out()
        self.planned_steps = timeline.total_steps  # as far as can be told at the beginning

    def resume(self, start: int, evaluations: Iterable[Mapping[str, Any]]) -> None:
        """Come to where a run stands that has made `start` updates.

        Args:
            evaluations: its records of metrics.jsonl, up to there.
        """
        path = self.folder / KEPT
        kept = read_json(path) if self.form.first and path.exists() else []
        for entry in self.form.agree(kept):
            change = ChangeConfig.parse(entry["change"])
            self.made.append(Made(entry["step"], change, entry.get("reason")))
        for record in evaluations:
            if record.get("valid_loss") is not None and record["step"] <= start:
                self.evaluated(record["step"], record["valid_loss"])
        self._lay_out()

    def asked(self, now: float) -> bool:
        """Whether there is a change by hand to look at; asks the disk now and then only.

        now: `time.perf_counter()`.
        """
        if not self.form.first or now - self._asked < LOOK_SECONDS:
            return False
        self._asked = now
        return (self.folder / BY_HAND).exists()

    def look(self, step: int) -> None:
        """See whether somebody wants a change; it comes into effect before update `step`."""
        path = self.folder / BY_HAND
        wanted: dict[str, Any] | None = None
        if self.form.first and path.exists():
            wanted = self._read(path, step)
        wanted = self.form.agree(wanted)
        if wanted is None:
            return
        change = ChangeConfig.parse(wanted)
        at = change.at_step
        if change.at is not None:
            at = max(step, self.timeline.step_at(change.at))
        made = Made(step if at is None else at, change.replace(at=None, at_step=None))
        if self.form.first:
            self._keep(made)
            path.unlink(missing_ok=True)
        self.made.append(made)
        self._lay_out()

    def shorten(self, step: int, wanted: tuple[int, str] | None) -> None:
        """From update `step` on, another length of the run for want of time.

        All processes call this. If it cannot be written down it is not done: the run could not do
        the same again after a kill.

        Args:
            wanted: (tokens of the whole run, reason); what the first process says counts.
        """
        if wanted is not None and self.form.first:
            try:
                self._keep(_shorter(step, *wanted))
            except OSError as error:
                self.say(f"not shortened: {KEPT} cannot be written ({error.strerror})")
                wanted = None
        wanted = self.form.agree(wanted)
        if wanted is not None:
            self.made.append(_shorter(step, *wanted))
            self._lay_out()

    @property
    def length_is_wished(self) -> bool:
        """Whether a person has changed the length of the run: a time that was given before no
        longer counts."""
        return any(m.change.run_tokens is not None and not m.reason for m in self.effective)

    @property
    def last_shortened(self) -> int:
        """Before which update the run was shortened last, as far as is known; 0: never. A run that
        goes on from before it has that still to come."""
        return max((made.step for made in self.made if made.reason), default=0)

    def evaluated(self, step: int, loss: float | None) -> None:
        """Tell the rules of a validation loss after `step` updates."""
        fired = [Made(step, rule.change) for rule in self.rules if rule.fires(loss)]
        if fired:
            self.made += fired
            self._lay_out()

    def before(self, step: int) -> list[dict[str, Any]]:
        """Records of the changes that come into effect with update `step`."""
        return [made.record() for made in self.effective if made.step == step]

    def _keep(self, made: Made) -> None:
        """Write down a change that does not follow from the settings, with those before it."""
        kept = [m for m in [*self.made, made] if m.change.when == "by hand"]
        entries = [
            {"step": m.step, "change": m.change.what} | ({"reason": m.reason} if m.reason else {})
            for m in kept
        ]
        write_json(self.folder / KEPT, entries)

    def _lay_out(self) -> None:
        """Build the timeline anew: of the planned changes those at a share of the run move when
        the batch changes before them."""
        timeline, planned = self.timeline, list(self.planned)
        made = sorted(self.made, key=lambda m: m.step)
        timeline.reset()
        self.effective = []
        while planned or made:
            steps = [self._step_of(change) for change in planned]
            first = min(steps, default=None)
            if first is not None and (not made or first <= made[0].step):
                change = Made(first, planned.pop(steps.index(first)))
            else:
                change = made.pop(0)
            if change.step < timeline.total_steps:
                self._apply(timeline, change)
                self.effective.append(change)

    def _step_of(self, change: ChangeConfig) -> int:
        """Before which update a planned change comes, as things stand."""
        if change.at_step is not None:
            return change.at_step
        assert change.at is not None
        return self.timeline.step_at(change.at)

    def _apply(self, timeline: Timeline, made: Made) -> None:
        change, now = made.change, timeline.at(made.step)
        rate, rows = change.lr_factor or 1.0, None
        if change.lr is not None:
            rate = change.lr / (self.peak_lr * now.rate)
        if change.batch_tokens is not None:
            rows = change.batch_tokens // timeline.row_tokens
        elif change.batch_factor is not None:
            rows = max(1, round(change.batch_factor * now.rows))
        if rows == 0:
            raise UserError(
                "a batch would hold less than one row",
                where="changes",
                found=change.what,
                expected=f"at least the sequence length of {timeline.row_tokens}",
            )
        tokens = change.run_tokens
        length = None if tokens is None else -(-tokens // timeline.row_tokens)
        timeline.change(made.step, rate=rate, batch_rows=rows, mix=change.mix, all_rows=length)

    def _try(self, made: Made) -> None:
        """Raise what applying the change would raise."""
        self._apply(self.timeline.fresh(), made)

    def _read(self, path: Path, step: int) -> dict[str, Any] | None:
        """A change by hand as plain JSON, or None with a word why it cannot be."""
        try:
            change = ChangeConfig.parse(_toml(path))
            if change.plateau is not None or change.below is not None:
                raise UserError("a change by hand follows no rule", found=change.when)
            if change.at_step is not None and change.at_step < step:
                raise UserError("that step is over", where="at_step", found=change.at_step)
            self._try(Made(0, change))
        except (UserError, OSError, UnicodeDecodeError) as error:
            refused = path.with_suffix(".refused.toml")
            os.replace(path, refused)
            self.say(f"{path.name} was refused and is now {refused.name}: {error}")
            return None
        return change.to_json()


class Rule:
    """Watches validation losses for one change of the config."""

    def __init__(self, change: ChangeConfig) -> None:
        self.change = change
        self.left = change.times
        self._best: float | None = None
        self._worse = 0  # evaluations in a row

    def fires(self, loss: float | None) -> bool:
        """Whether a validation loss (None: not finite) brings the change about."""
        if self.left == 0:
            return False
        if self.change.below is not None:
            fired = loss is not None and loss < self.change.below
        else:
            assert self.change.plateau is not None
            better = loss is not None and (self._best is None or loss < self._best)
            self._best = loss if better else self._best
            self._worse = 0 if better else self._worse + 1
            fired = self._worse >= self.change.plateau
        if fired:
            self.left, self._worse = self.left - 1, 0
        return fired


def _shorter(step: int, tokens: int, reason: str) -> Made:
    return Made(step, ChangeConfig.parse({"run_tokens": tokens}), reason)


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise UserError("this is not TOML", where=path, found=str(error)) from None
