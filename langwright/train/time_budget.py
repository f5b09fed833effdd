"""A run that was given a time ends in that time, also on a machine that becomes slower.

The time is turned into updates once, by a measurement at the beginning. While the run goes on its
speed is looked at; when it would end late the rest of it is shortened. Never is it made longer than
it was planned.
"""

from __future__ import annotations

from collections import deque

from langwright.base import human_seconds
from langwright.train.choices import largest
from langwright.train.probe import BUDGET_MARGIN
from langwright.train.setup import Setup

LATE = 0.05  # of the time given: by how much a run may end late
WINDOW = 0.1  # of the time left: over so much the speed is measured before it is believed
LEAST_SECONDS = 5.0  # of training to be measured, however little time is left


class TimeBudget:
    """Watches the speed of a run and says how much of it fits into its time.

    Args:
        seconds: that the run was given, from its beginning; None: as many as it takes.
        setup: the run.
        look_rows: rows of training that take about as long as one evaluation; a first guess.
        every: updates between evaluations; 0: at the end only; None: there are none.
    """

    def __init__(
        self, seconds: float | None, setup: Setup, look_rows: float, every: int | None
    ) -> None:
        self.seconds, self.setup, self.every = seconds, setup, every
        self._look_guess = look_rows * setup.row_tokens
        self._looks, self._look_tokens = 0, 0.0  # measured; see `_cost`
        self._window: deque[tuple[int, float]] = deque()  # tokens, seconds
        self._tokens, self._spent = 0, 0.0  # their sums
        self._begun = False
        self._trained = self._saved = 0.0  # seconds of this start

    def trained(self, tokens: int, seconds: float) -> None:
        """Updates on so many tokens took so long; evaluations and checkpoints left out.

        The first ones of a start do not count: blocks may have been compiled, caches filled.
        """
        if self._begun:
            self._window.append((tokens, seconds))
            self._tokens, self._spent = self._tokens + tokens, self._spent + seconds
            self._trained += seconds
        self._begun = True

    def paused(self, seconds: float, *, looked: bool) -> None:
        """Training stood still for an evaluation (with what was saved then) or a checkpoint."""
        if not looked:
            self._saved += seconds
        elif self._window:
            self._looks, self._look_tokens = (
                self._looks + 1,
                self._look_tokens + seconds * self._rate,
            )

    def late(self, step: int, elapsed: float) -> tuple[int, str] | None:
        """Whether a run that has made `step` updates in `elapsed` seconds will end late.

        Returns:
            The length in tokens that the whole run should have instead, and why. None: in time,
            or as little as possible is left, or nobody knows yet. The speed is then measured anew.
        """
        total, changes = self.setup.total_steps, self.setup.changes
        if self.seconds is None or changes.length_is_wished:
            return None
        if step < changes.last_shortened or step >= total:
            return None
        left = self.seconds - elapsed
        if not self._enough(max(LEAST_SECONDS, WINDOW * left)):
            return None
        done, rate = self.setup.tokens(step), self._rate
        rest = self.setup.tokens(total) - done
        end = elapsed + self._cost(step, total, rest) / rate
        if end <= (1.0 + LATE) * self.seconds:
            return None
        batch = self.setup.timeline.span(step)[2] * self.setup.row_tokens
        room = (1.0 - BUDGET_MARGIN) * left * rate

        def fits(updates: int) -> bool:
            return self._cost(step, step + updates, updates * batch) <= room

        updates = largest(fits, -(-rest // batch))
        if updates * batch >= rest:
            return None
        self._window.clear()
        self._tokens, self._spent = 0, 0.0
        reason = (
            f"{batch / rate:.3g} s per step now, so all {total:,} steps would take "
            f"{human_seconds(end)} in place of {human_seconds(self.seconds)}"
        )
        return done + updates * batch, reason

    def _enough(self, seconds: float) -> bool:
        """Whether the window holds so much; what is older leaves it."""
        while self._window and self._spent - self._window[0][1] >= seconds:
            tokens, took = self._window.popleft()
            self._tokens, self._spent = self._tokens - tokens, self._spent - took
        return self._spent >= seconds

    @property
    def _rate(self) -> float:
        """Tokens per second in the window."""
        return self._tokens / max(1e-9, self._spent)

    def _cost(self, step: int, last: int, tokens: int) -> float:
        """What updates `step` to `last` on so many tokens will take, with all that belongs to
        them; in tokens on which training would take as long."""
        looks = 0
        if self.every is not None:
            looks = 1 if self.every == 0 else -(-last // self.every) - step // self.every
        saving = self._saved / self._trained if self._trained else 0.0
        one = self._look_tokens / self._looks if self._looks else self._look_guess
        return (1.0 + saving) * tokens + looks * one
