"""A batch that went wrong, written down: what to look at, and what to try again with.

bad_batches/step-0000012.json         why, which rows, their losses, their texts
            step-0000012.safetensors  the tensors of the batch
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from langwright.base import UserError, atomic_path, write_json
from langwright.dataset import Batch
from langwright.train.compiling import uncompiled
from langwright.train.metrics import finite
from langwright.train.update import Updater

FOLDER = "bad_batches"
MOST_PASSES = 256  # forward passes to find the bad rows; larger batches are looked at in groups
SHOWN = 4  # rows whose texts are written down
NAMED = 20  # parameters that are named


@dataclass
class Findings:
    """What a second look at a batch showed; empty if there was none."""

    losses: list[float] = field(default_factory=list)  # mean loss of each group of rows
    group: int = 1  # rows in a group
    parameters: list[str] = field(default_factory=list)  # with a gradient that is not finite
    note: str | None = None

    @property
    def worst(self) -> list[int]:
        """Groups, worst first: those that are not finite, then by loss."""
        order = [-math.inf if not math.isfinite(x) else -x for x in self.losses]
        return sorted(range(len(order)), key=order.__getitem__)

    def told(self, first: int) -> str:
        """A clause about the worst; `first` is the number of the batch's first row."""
        if self.parameters:
            return f" (gradient not finite: {', '.join(self.parameters[:3])})"
        if not self.losses:
            return ""
        worst = self.worst[0]
        return f" (worst: row {first + worst * self.group}, loss {self.losses[worst]:.3f})"


def examine(updater: Updater, step: int, batch: Batch, *, gradients: bool) -> Findings:
    """Look again: the loss of each row, and if all are finite, the gradients of each parameter.

    The model is that of now; where results are read late, it is a few updates further than it was
    then. Nothing is changed, and losses are taken without dropout.

    Args:
        step: updates made with the batch's own included.
        gradients: whether to look at gradients too.
    """
    group = -(-batch.rows // MOST_PASSES)
    found = Findings(group=group)
    model = updater.model
    training = model.training
    try:
        with torch.no_grad(), uncompiled():
            model.eval()
            for part in batch.split(group):
                loss_sum, weight = updater.objective(model, part.to(updater.device))
                found.losses.append(float(loss_sum) / max(float(weight), 1e-9))
        model.train(training)
        if gradients and all(map(math.isfinite, found.losses)):
            updater.optimizer.zero_grad()
            updater.accumulate(step - 1, batch)
            found.parameters = _not_finite(updater)[:NAMED]
    except torch.OutOfMemoryError:
        found.note = "out of memory at the second look"
    finally:
        model.train(training)
        updater.optimizer.zero_grad()
        updater.forget()
    return found


def write_bad_batch(
    folder: Path,
    batch: Batch,
    first: int,
    about: dict[str, Any],
    findings: Findings,
    tokenizer: Any = None,
) -> Path:
    """Write ``bad_batches/step-<step>.json`` and the tensors beside it; returns the JSON's path.

    Args:
        folder: of the run.
        first: number of the batch's first row in the data.
        about: ``step``, ``reason``, ``loss``, ``grad_norm``; numbers that JSON has no word for are
            written as text.
        tokenizer: turns rows into text, if there is one.
    """
    path = folder / FOLDER / f"step-{about['step']:07d}.json"
    tensors = {
        name: getattr(batch, name).contiguous()
        for name in ("inputs", "targets", "segments", "positions")
        if getattr(batch, name) is not None
    }
    with atomic_path(path.with_suffix(".safetensors")) as temporary:
        save_file(tensors, temporary)
    worst = [group * findings.group for group in findings.worst[:SHOWN]]
    shown = worst or list(range(min(SHOWN, batch.rows)))
    record = {name: _told(value) for name, value in about.items()} | {
        "rows": [first, first + batch.rows - 1],
        "row_losses": [_told(loss) for loss in findings.losses],
        "rows_per_loss": findings.group,
        "worst_rows": [first + row for row in worst],
        "parameters_not_finite": findings.parameters,
        "note": findings.note,
    }
    if tokenizer is not None:
        record["texts"] = {
            str(first + row): tokenizer.decode(batch.inputs[row].tolist()) for row in shown
        }
    write_json(path, record)
    return path


def read_bad_batch(path: str | Path) -> Batch:
    """The batch that was written down, from the path of its JSON or of its tensors.

    Raises:
        UserError: it is not there, or not whole.
    """
    file = Path(path).with_suffix(".safetensors")
    if not file.exists():
        raise UserError("no batch here", where=file)
    try:
        tensors: dict[str, Any] = load_file(file)
        return Batch(**tensors)
    except (SafetensorError, TypeError) as error:
        raise UserError(f"not a batch: {error}", where=file) from None


def _not_finite(updater: Updater) -> list[str]:
    names = updater.optimizer.names
    return [
        name
        for parameter, name in names.items()
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
    ]


def _told(value: Any) -> Any:
    """The value, as text if it is a number that JSON cannot write."""
    if isinstance(value, float) and finite(value) is None:
        return str(value)
    return value
