"""What was chosen automatically, and why. Made once, written to choices.json, reused on resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from langwright.base import UserError, machine, read_json, write_json
from langwright.plan import rules

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp8": torch.bfloat16,  # the blocks' products are float8, all else bf16
}


@dataclass
class Choices:
    """Values with their reasons, in the order in which they were decided."""

    key: str  # hash of everything that decides the weights: another key is another run
    say: Callable[[str], None] = lambda text: None
    values: dict[str, dict[str, Any]] = field(default_factory=dict)

    def decide(self, name: str, value: Any, reason: str) -> Any:
        """Write down a choice, tell it, and return its value."""
        self.values[name] = {"value": value, "reason": reason}
        self.say(f"{name.replace('_', ' ')}: {value} ({reason})")
        return value

    def __getitem__(self, name: str) -> Any:
        return self.values[name]["value"]

    def save(self, path: Path) -> None:
        """Write the file, atomically."""
        write_json(path, {"key": self.key, "choices": self.values})

    @classmethod
    def load(cls, path: Path, key: str, say: Callable[[str], None]) -> Choices | None:
        """The choices of an earlier start of this run, or None.

        Raises:
            UserError: the folder holds a run with other settings, data or model.
        """
        if not path.exists():
            return None
        record = read_json(path)
        if record.get("key") != key:
            raise UserError(
                "this folder holds a training run with other settings, data or model",
                where=path.parent,
                fix="go on with the settings it was begun with, or choose another folder",
            )
        return cls(key, say, record["choices"])


def choose_device(wanted: str, choices: Choices) -> str:
    """The device that was asked for, or the best there is: cuda, then mps, then cpu."""
    found = machine()
    if wanted == "auto":
        return choices.decide("device", found.device, found.describe())
    kind = wanted.partition(":")[0]
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": _has_mps()}
    if not there.get(kind, False):
        usable = ", ".join(name for name, is_there in there.items() if is_there)
        raise UserError(
            "no such device on this machine", where="device", found=wanted, expected=usable
        )
    return choices.decide("device", wanted, "as asked")


def choose_micro_rows(
    wanted: int | None, rows: int, length: int, choices: Choices, fits: Callable[[int], bool]
) -> int:
    """Rows per forward pass.

    On the CPU about 16,384 tokens: the cores wait for one another at the end of each operation, and
    the weights are cast for each pass. On a GPU as many as fit, found by trying (`fits`), halving
    on failure.
    """
    if wanted is not None:
        return choices.decide("micro_batch_rows", min(wanted, rows), "as asked")
    if choices["device"] == "cpu":
        value = rules.cpu_rows(rows, length)
        reason = "the whole batch" if value == rows else f"about {rules.CPU_TOKENS:,} tokens"
        return choices.decide("micro_batch_rows", value, reason)
    sizes = rules.device_sizes(rows, length)
    value = rules.most_that_fit(sizes, fits)
    if not value:
        raise UserError(
            "one row does not fit into the device's memory",
            fix="a smaller model, shorter sequences, or another device",
        )
    reason = "fits into device memory" if value == sizes[0] else f"{sizes[0]} rows did not fit"
    return choices.decide("micro_batch_rows", value, reason)


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number from 1 to `most` that fits (with it, all smaller ones do); else 1."""
    found, too_many = 1, most + 1
    while too_many - found > 1:
        middle = (found + too_many) // 2
        if fits(middle):
            found = middle
        else:
            too_many = middle
    return found


def _has_mps() -> bool:
    return torch.backends.mps.is_available()
