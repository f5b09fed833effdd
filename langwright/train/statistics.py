"""What goes on inside the model: sizes of activations, gradients, weights and their changes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from langwright.dataset import Batch
from langwright.parallel import Distributed
from langwright.train.compiling import uncompiled
from langwright.train.metrics import MetricsLog, Record, finite
from langwright.train.update import Updater

FILE = "statistics.jsonl"
DEPTH = 2  # dots in the name of a module that is looked at: "blocks.3.attention"

# Of a tensor x with n entries: sum of squares, largest |x|, n, number of zeros.
Sums = Tensor  # (4,) float64
LARGEST = 1  # of the four


class Statistics:
    """Takes statistics of an update without changing it.

    A line of statistics.jsonl holds, for a step:

    - ``activations``: for each module its output's ``rms`` (root of the mean square), ``max``
      (largest absolute value) and ``zeros`` (share of entries that are 0), in a forward pass
      without dropout on the first micro-batch, before the update;
    - ``parameters``: for each its ``weight`` (rms before the update), ``gradient`` (rms after
      clipping), ``gradient_max``, and ``update`` (rms of the change over the rms of the weight; in
      the middle of a healthy run around 1e-3 for AdamW).

    Of a number that is not finite the file says null. Over many processes all this is that of the
    whole model, and activations are those of every process's first micro-batch.
    """

    def __init__(self, updater: Updater, folder: Path, start: int) -> None:
        self.updater = updater
        self.log = MetricsLog(folder / FILE)
        if self.log.path.exists() and updater.form.first:
            self.log.cut_back(start)

    @contextlib.contextmanager
    def of(self, place: Record, batch: Batch) -> Iterator[None]:
        """Look at the update that is made inside; `place` is how its record begins."""
        record: Record = {**place, "activations": self._activations(batch)}
        before: dict[str, Tensor] = {}
        sums: dict[str, list[Sums]] = {}

        def about_to_step(*_: Any) -> None:
            for name, parameter in self._parameters():
                if parameter.grad is None or name in before:
                    continue
                weight = _local(parameter)
                before[name] = weight.clone()
                sums[name] = [_sums(weight), _sums(_local(parameter.grad))]

        hooks = [
            optimizer.register_step_pre_hook(about_to_step)
            for optimizer in self.updater.optimizer.optimizers
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        for name, parameter in self._parameters():
            if name in before:
                sums[name].append(_sums(_local(parameter) - before[name]))
        record["parameters"] = self._parameter_table(sums)
        if self.updater.form.first:
            self.log.write([record])

    def _parameters(self) -> list[tuple[str, Tensor]]:
        return [(name, parameter) for parameter, name in self.updater.optimizer.names.items()]

    def _activations(self, batch: Batch) -> dict[str, dict[str, float | None]]:
        """Statistics of every module's output, by its name."""
        updater = self.updater
        found: dict[str, Sums] = {}
        model = updater.form.model
        micro = batch.split(updater.micro_rows)[0].to(updater.device)
        training = model.training
        hooks = [
            module.register_forward_hook(_keep_sums(found, name))
            for name, module in model.named_modules()
            if name and name.count(".") <= DEPTH and not isinstance(module, nn.ModuleList)
        ]
        try:
            model.eval()
            with torch.no_grad(), uncompiled():
                updater.form.inside(updater.objective, micro)
        finally:
            model.train(training)
            for hook in hooks:
                hook.remove()
        rows = self._of_all(_numbers(found))
        return {name: _activation_row(*row) for name, row in rows.items()}

    def _parameter_table(self, sums: dict[str, list[Sums]]) -> dict[str, dict[str, float | None]]:
        form = self.updater.form
        rows = _numbers({name: torch.cat(three) for name, three in sums.items()})  # (12,) each
        if isinstance(form, Distributed):  # a piece that several processes hold counts once
            for name, row in rows.items():
                copies = form.parts[name].copies(form.layout)
                rows[name] = [x if i % 4 == LARGEST else x / copies for i, x in enumerate(row)]
        return {
            name: _parameter_row(row[:4], row[4:8], row[8:])
            for name, row in self._of_all(rows).items()
        }

    def _of_all(self, rows: dict[str, list[float]]) -> dict[str, list[float]]:
        """The sums of all processes, added up."""
        total: dict[str, list[float]] = {}
        for part in self.updater.form.gather(rows):
            for name, row in part.items():
                old = total.get(name, [0.0] * len(row))
                total[name] = [
                    _larger(a, b) if i % 4 == LARGEST else a + b
                    for i, (a, b) in enumerate(zip(old, row))
                ]
        return total


def _keep_sums(found: dict[str, Sums], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, tuple):
            output = output[0]
        if isinstance(output, Tensor) and output.is_floating_point():
            found[name] = _sums(_local(output))

    return hook


def _sums(x: Tensor) -> Sums:
    """Of all entries: sum of squares, largest absolute value, their number, how many are 0."""
    x = x.detach()
    if x.numel() == 0:
        return torch.zeros(4, dtype=torch.float64, device=x.device)
    squares = torch.linalg.vector_norm(x, dtype=torch.float32).double().square()
    largest = torch.linalg.vector_norm(x, math.inf).double()
    counts = torch.tensor(float(x.numel()), dtype=torch.float64, device=x.device)
    return torch.stack([squares, largest, counts, (x == 0).sum().double()])


def _larger(a: float, b: float) -> float:
    """The larger one, or NaN if one of them is."""
    return a + b if math.isnan(a + b) else max(a, b)


def _numbers(rows: dict[str, Tensor]) -> dict[str, list[float]]:
    """Tensors of one shape as lists; one copy from the device for all of them."""
    if not rows:
        return {}
    return dict(zip(rows, torch.stack(list(rows.values())).tolist()))


def _activation_row(squares: float, largest: float, count: float, zeros: float) -> dict:
    return {
        "rms": finite(math.sqrt(squares / max(1.0, count))),
        "max": finite(largest),
        "zeros": zeros / max(1.0, count),
    }


def _parameter_row(weight: list[float], gradient: list[float], change: list[float]) -> dict:
    count = max(1.0, weight[2])
    return {
        "weight": finite(math.sqrt(weight[0] / count)),
        "gradient": finite(math.sqrt(gradient[0] / count)),
        "gradient_max": finite(gradient[1]),
        "update": finite(math.sqrt(change[0] / weight[0])) if weight[0] > 0 else None,
    }


def _local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that is spread over processes."""
    tensor = tensor.detach()
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
