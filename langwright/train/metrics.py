"""metrics.jsonl: what happened, a line at a time, and what can be read off it."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from langwright.base import write_atomic

Record = dict[str, Any]
RECENT_UPDATES = 20  # over which the training loss is averaged
STALL_EVALUATIONS = 3  # without a better validation loss before it is mentioned


class MetricsLog:
    """A JSON-lines file that can be cut back to a step when a run goes on from a checkpoint.

    A disk that is full stops no training: what could not be written is kept and tried again.

    Args:
        path: the file.
        say: told when writing fails, and when it works again.
    """

    def __init__(self, path: Path, say: Callable[[str], None] = lambda text: None) -> None:
        self.path = path
        self._say = say
        self._unwritten = b""

    def cut_back(self, step: int) -> list[Record]:
        """Drop all lines of later steps (and a half-written last line); returns what remains."""
        kept = self.up_to(step)
        write_atomic(self.path, "".join(_line(record) for record in kept))
        return kept

    def up_to(self, step: int) -> list[Record]:
        """All lines up to a step."""
        return [record for record in self.read() if record.get("step", 0) <= step]

    def read(self) -> Iterator[Record]:
        """All whole lines."""
        if not self.path.exists():
            return
        with open(self.path, encoding="utf-8") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except json.JSONDecodeError:
                    return

    def write(self, records: list[Record]) -> None:
        """Append lines; they are with the operating system when this returns, if it takes them."""
        failed_before = bool(self._unwritten)
        self._unwritten += "".join(_line(record) for record in records).encode("utf-8")
        try:
            _append(self.path, self._unwritten)
        except OSError as error:
            if not failed_before:
                self._say(f"cannot write {self.path} ({error.strerror}): trying again later")
            return
        self._unwritten = b""
        if failed_before:
            self._say(f"{self.path} can be written again; nothing was lost")


class History:
    """What the records so far amount to. Fed with live records, or with those of the file."""

    def __init__(self) -> None:
        self.best_loss: float | None = None
        self.best_step: int | None = None
        self.last_valid: Record | None = None
        self.last_loss: float | None = None
        self._recent: deque[float] = deque(maxlen=RECENT_UPDATES)
        self.bad_steps = 0
        self.bad_in_a_row = 0
        self._last_bad = -1  # step of the last bad update
        self._train: list[float] = []  # training losses since the last evaluation
        self._evaluations: list[tuple[float, float]] = []  # (mean training loss, validation loss)
        self._stall_told = False

    @property
    def train_loss(self) -> float | None:
        """Mean loss of the last updates, which is steadier than that of the very last."""
        return sum(self._recent) / len(self._recent) if self._recent else None

    def add(self, record: Record) -> None:
        """Take note of a record."""
        if "loss" in record:
            self._add_update(record)
        if record.get("valid_loss") is not None:
            self._add_evaluation(record)

    def is_best(self, loss: float | None) -> bool:
        """Whether a validation loss (None: not finite) is better than all before."""
        return loss is not None and (self.best_loss is None or loss < self.best_loss)

    def stall_note(self) -> str | None:
        """A sentence, once, when validation no longer improves while training does."""
        recent = self._evaluations[-STALL_EVALUATIONS - 1 :]
        if self._stall_told or len(recent) <= STALL_EVALUATIONS or self.best_loss is None:
            return None
        stalled = min(valid for _, valid in recent[1:]) > self.best_loss
        if not stalled or recent[-1][0] >= recent[0][0]:
            return None
        self._stall_told = True
        return (
            f"note: validation loss has not improved since step {self.best_step} "
            f"({self.best_loss:.3f}, now {recent[-1][1]:.3f}) while training loss fell from "
            f"{recent[0][0]:.3f} to {recent[-1][0]:.3f}: the model is learning the training text "
            "by heart. More data, fewer epochs, more dropout or a smaller model would help."
        )

    def _add_update(self, record: Record) -> None:
        if record.get("skipped"):
            # Good updates between two bad ones may have left no line (`log_every`).
            in_a_row = record["step"] == self._last_bad + 1
            self.bad_in_a_row = self.bad_in_a_row + 1 if in_a_row else 1
            self.bad_steps += 1
            self._last_bad = record["step"]
            return
        self.bad_in_a_row = 0
        self.last_loss = record["loss"]
        if record["loss"] is not None:
            self._train.append(record["loss"])
            self._recent.append(record["loss"])

    def _add_evaluation(self, record: Record) -> None:
        loss = record["valid_loss"]
        if self.is_best(loss):
            self.best_loss, self.best_step = loss, record["step"]
        self.last_valid = record
        if self._train:
            self._evaluations.append((sum(self._train) / len(self._train), loss))
            self._train = []


def finite(value: float) -> float | None:
    """The number, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None


def perplexity(loss: float) -> float | None:
    """exp(loss): among how many equally likely tokens the model hesitates."""
    return finite(math.exp(min(loss, 700.0)))


def _line(record: Record) -> str:
    return json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"


def _append(path: Path, data: bytes) -> None:
    """Append all of it or, where the disk is full, nothing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(descriptor, left) :]
        except OSError:
            os.ftruncate(descriptor, size)
            raise
    finally:
        os.close(descriptor)
