"""Which rows each update takes, and where it stands in the schedule, also when that changes.

A run is cut into stretches; within one, batch, mix and rate factor stay. All is a pure function of
the changes and the steps at which they came: so a run that goes on after a crash goes on the same.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace

from langwright.base import UserError
from langwright.dataset import MixedRows, Rows, remix


@dataclass(frozen=True)
class Stretch:
    """Updates that are alike."""

    step: int  # the first one's number
    row: int  # the first row of data
    rows: int  # in a batch
    place: float  # in the schedule, counted in updates of the original plan
    pace: float  # by how much an update moves on in it
    rate: float  # factor on the learning rate, besides the schedule's
    source: Rows


class Timeline:
    """The updates of a run.

    Args:
        source: the rows.
        batch_rows: of a batch at the beginning.
        steps: updates that the run has if nothing changes; the schedule is laid out over them.
        by_tokens: the run's length is a number of tokens: with larger batches it has fewer
            updates, and the schedule is gone through as quickly. Else the updates stay as many.
        parts: processes into which a batch's rows must divide.
    """

    def __init__(
        self, source: Rows, batch_rows: int, steps: int, *, by_tokens: bool, parts: int = 1
    ) -> None:
        self.row_tokens = source.sequence_length
        self.places, self.by_tokens, self.parts = steps, by_tokens, parts
        self.version = 0  # counts changes
        self._first = Stretch(0, 0, batch_rows, 0.0, 1.0, 1.0, source)
        self.reset()

    def reset(self) -> None:
        """Forget all changes."""
        self.total_steps = self.places
        self.all_rows = self.places * self._first.rows  # of the whole run, if that is its length
        self.version += 1
        self._stretches = [self._first]

    def fresh(self) -> Timeline:
        """Another one without changes."""
        first = self._first
        return Timeline(
            first.source, first.rows, self.places, by_tokens=self.by_tokens, parts=self.parts
        )

    def at(self, step: int) -> Stretch:
        """The stretch of update number `step` (from 0)."""
        return self._stretches[bisect_right(self._stretches, step, key=lambda s: s.step) - 1]

    def end(self, step: int) -> int:
        """The end of the stretch of update `step`: the first update that is not in it."""
        later = [part.step for part in self._stretches if part.step > step]
        return min([*later, self.total_steps])

    def span(self, step: int) -> tuple[Rows, int, int]:
        """(data, first row, number of rows) of update `step`."""
        part = self.at(step)
        return part.source, part.row + (step - part.step) * part.rows, part.rows

    def tokens(self, step: int) -> int:
        """Tokens of the updates before `step`, counted or not."""
        return self.span(step)[1] * self.row_tokens

    def place(self, step: int) -> float:
        """Where update `step` stands in the schedule, 0 to `places`."""
        part = self.at(step)
        return part.place + (step - part.step) * part.pace

    def share(self, step: int) -> float:
        """Share of the run (of its schedule) done before update `step`."""
        return min(1.0, self.place(step) / self.places)

    def step_at(self, share: float) -> int:
        """The first update before which at least `share` of the run is done."""
        goal = share * self.places
        for part, after in zip(self._stretches, [*self._stretches[1:], None]):
            step = part.step + max(0, math.ceil(round((goal - part.place) / part.pace, 9)))
            if after is None or step < after.step:
                return step
        raise AssertionError("the last stretch has no end")

    def change(
        self,
        step: int,
        *,
        rate: float = 1.0,
        batch_rows: int | None = None,
        mix: Mapping[str, float] | None = None,
        all_rows: int | None = None,
    ) -> None:
        """From update `step` on: rate times `rate`, another batch, another mix, another length of
        the whole run (at least one more update).

        Raises:
            UserError: the batch or the mix cannot be.
        """
        last = self._stretches[-1]
        if step < last.step:
            raise ValueError(f"changes come in order: {step} is before {last.step}")
        source, row, _ = self.span(step)
        rows = last.rows if batch_rows is None else self._fit(batch_rows)
        if mix is not None:
            source = _remixed(source, mix, row)
        fresh = replace(
            last,
            step=step,
            row=row,
            rows=rows,
            place=self.place(step),
            rate=last.rate * rate,
            source=source,
        )
        if all_rows is not None:
            self.all_rows = all_rows
        if all_rows is not None or (rows != last.rows and self.by_tokens):
            left = max(1, math.ceil((self.all_rows - row) / rows))
            self.total_steps = step + left
            fresh = replace(fresh, pace=(self.places - fresh.place) / left)
        self.version += 1
        if step == last.step:
            self._stretches.pop()
        self._stretches.append(fresh)

    def _fit(self, batch_rows: int) -> int:
        """A number of rows that divides into the parts: the nearest one."""
        return max(1, round(batch_rows / self.parts)) * self.parts


def _remixed(source: Rows, mix: Mapping[str, float], row: int) -> Rows:
    if not isinstance(source, MixedRows):
        raise UserError(
            "the data has one source only, so its mix cannot be changed",
            where="mix",
            found=dict(mix),
            fix="leave the change out, or build a dataset of several sources",
        )
    return remix(source, mix, row)
