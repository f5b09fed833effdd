"""One process: what the update asks of the parallel form, where there is none.

`Distributed` answers the same questions for many processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from langwright.dataset import Batch
from langwright.optim import OptimConfig, OptimizerSet, build_optimizer, clip_gradients
from langwright.parallel.layout import Layout

Result = TypeVar("Result")
Objective = Callable[[Any, Batch], tuple[Tensor, Tensor | float]]
Sums = tuple[Tensor, Tensor | float]  # of a micro-batch: loss sum (0-d fp32), its weight


class Alone:
    """A model on one device, all of it."""

    rank, size = 0, 1  # of processes
    data_rank, data_size = 0, 1  # of parts into which the rows of a batch are shared out
    layout: Layout | None = None  # of several processes

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    @property
    def whole(self) -> bool:
        """Whether every process holds all weights and can use them by itself."""
        return True

    @property
    def first(self) -> bool:
        """Whether this process prints and writes."""
        return self.rank == 0

    @property
    def look_part(self) -> tuple[int, int]:
        """(part, number of parts) of the rows that this process takes where all look at the model
        without training it. With few parts several processes take the same rows."""
        return self.data_rank, self.data_size

    def own_rows(self, start: int, count: int) -> tuple[int, int]:
        """(first row, number of rows) of this process, of a batch of `count` rows from `start`."""
        part = count // self.data_size
        return start + self.data_rank * part, part

    def take_rows(self, batch: Batch) -> Batch:
        """The rows of a global batch that this process works on."""
        if self.data_size == 1:
            return batch
        return batch.split(batch.rows // self.data_size)[self.data_rank]

    def own_part(self, batch: Batch) -> Batch:
        """Of this process's rows the tokens that it works on."""
        return batch

    def rows_at_once(self, rows: int, micro_rows: int) -> int:
        """Rows that go through the model together, of `rows` cut into micro-batches."""
        return min(rows, micro_rows)

    def gradients(
        self,
        objective: Objective,
        micros: Sequence[Batch],
        scale: float | Tensor,
        begin: Callable[[int], None],
    ) -> list[Sums]:
        """Forward and backward passes of all micro-batches of an update.

        Afterwards every parameter's gradient is that of ``scale`` times the sum of all losses,
        over all processes.

        Args:
            objective: gives (loss sum, weight) of a micro-batch.
            micros: on the device; the same number on every process.
            scale: factor on the loss sums.
            begin: called with the micro-batch's number before its forward pass.

        Returns:
            For each micro-batch of this process its loss sum, without `scale`, and its weight.
        """
        sums = []
        for index, micro in enumerate(micros):
            begin(index)
            loss_sum, weight = objective(self.model, micro)
            (loss_sum * scale).backward()
            sums.append((loss_sum.detach().float(), weight))
        return sums

    def optimizer(self, config: OptimConfig) -> OptimizerSet:
        """The optimizer of what this process holds of the parameters."""
        return build_optimizer(self.model, config)

    def clip(
        self, optimizer: OptimizerSet, max_norm: float | None, factor: float | Tensor = 1.0
    ) -> Tensor:
        """As `clip_gradients`, by the norm of the whole model's gradient."""
        return clip_gradients(optimizer.parameters, max_norm, factor=factor)

    def all_sum(self, tensor: Tensor) -> Tensor:
        """Sum over the processes that add tokens of their own to the loss."""
        return tensor

    def agree(self, value: Any) -> Any:
        """The first process's value (of plain JSON), on all."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """Every process's value (of plain JSON), on all."""
        return [value]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether it is up on some process."""
        return flags

    def wait(self) -> None:
        """Until every process has come here."""

    def inside(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """``work(model, *arguments)`` while the model's weights can be used (evaluation)."""
        return work(self.model, *arguments)

    def forget_weights(self) -> None:
        """Called after weights were written from outside: drop what was made from the old ones."""
