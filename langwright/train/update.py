"""One update: a global batch in, a change of the weights out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from langwright.base import seed_for
from langwright.dataset import Batch
from langwright.optim import OptimizerSet, clip_gradients
from langwright.train.lanes import Lanes
from langwright.train.loss_scale import LossScale
from langwright.train.objective import Objective


@dataclass
class Outcome:
    """What an update reports: 0-d fp32 tensors on the device, not yet waited for."""

    loss: Tensor  # loss sum / weight of the whole batch, before the update
    norm: Tensor  # global norm of the gradient before clipping
    bad: Tensor  # 1.0 if loss or norm was not finite and nothing was changed

    def stacked(self) -> Tensor:
        """(3,) loss, norm, bad: one thing to copy to the host."""
        return torch.stack([self.loss, self.norm, self.bad])


class Updater:
    """Turns batches into updates: micro-batches, accumulation, clipping, rate, step.

    Args:
        model: on `device`, in training mode.
        optimizer: of its parameters.
        objective: gives (loss sum, weight) of a micro-batch.
        micro_rows: rows per forward pass.
        clip: limit of the gradient's norm, or None.
        seed: of dropout; each (step, micro-batch) draws from a generator of its own, so there is no
            random state to save.
        loss_scale: for fp16, else None.
        say: told when memory runs out and micro-batches are halved.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: OptimizerSet,
        objective: Objective,
        *,
        device: torch.device,
        micro_rows: int,
        clip: float | None,
        seed: int,
        loss_scale: LossScale | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.device = device
        self.micro_rows = micro_rows
        self.clip = clip
        self.seed = seed
        self.loss_scale = loss_scale
        self.say = say
        self.lanes: Lanes | None = None

    def use_lanes(self, count: int) -> None:
        """Run `count` micro-batches at a time (see `Lanes`); 1: one after another, as usual."""
        if self.lanes is not None:
            self.lanes.close()
        self.lanes = Lanes(self.model, count) if count > 1 else None

    def update(self, step: int, batch: Batch, multiplier: float) -> Outcome:
        """Make one update from the global `batch`; the rate is `multiplier` times its peak.

        A batch whose loss or gradient is not finite changes nothing but the loss scale.
        """
        self.optimizer.zero_grad()
        loss, factor = self._gradients(step, batch)
        norm = clip_gradients(self.optimizer.parameters, self.clip, factor=factor)
        bad = (~torch.isfinite(norm + loss)).float()
        self.optimizer.set_lr(multiplier)
        if self.device.type != "cpu":
            self.optimizer.step(skip=bad)
        elif not bad.item():
            self.optimizer.step()
        if self.loss_scale is not None:
            self.loss_scale.update(bad)
        self.optimizer.zero_grad()
        return Outcome(loss, norm, bad)

    def _gradients(self, step: int, batch: Batch) -> tuple[Tensor, float | Tensor]:
        """Accumulate, and on a full device do the same in smaller pieces."""
        while True:
            try:
                return self.accumulate(step, batch)
            except torch.OutOfMemoryError:
                if self.micro_rows == 1:
                    raise
                self.micro_rows = (self.micro_rows + 1) // 2
            self.optimizer.zero_grad()
            torch.cuda.empty_cache()
            self.say(f"out of device memory: going on with {self.micro_rows} rows at a time")

    def accumulate(self, step: int, batch: Batch) -> tuple[Tensor, float | Tensor]:
        """Add up the gradients of the batch's micro-batches.

        Every micro-batch's loss *sum* is divided by the token count of the whole batch, so a
        micro-batch with few counted tokens weighs little: a mean of means would be wrong.

        Returns:
            The batch's loss (0-d fp32), and the factor by which the gradients must still be
            multiplied: one over the loss scale, and tokens / weight for an objective whose weight
            is not the number of tokens.
        """
        tokens = max(1, batch.tokens)
        scale = 1.0 if self.loss_scale is None else self.loss_scale.scale
        if self.device.type == "cuda":
            batch = batch.pin_memory()  # copies then overlap with work
        micros = batch.split(self.micro_rows)

        def work(model: nn.Module, index: int) -> tuple[Tensor, Tensor | float]:
            if self.lanes is None:  # with lanes there is no dropout to draw
                torch.manual_seed(seed_for(self.seed, "dropout", step, index))
            micro = micros[index].to(self.device, non_blocking=True)
            loss_sum, micro_weight = self.objective(model, micro)
            (loss_sum * (scale / tokens)).backward()
            return loss_sum.detach().float(), micro_weight

        if self.lanes is None:
            results = [work(self.model, index) for index in range(len(micros))]
        else:
            results = self.lanes.map(work, len(micros))
        total: Tensor | float = 0.0
        weight: Tensor | float = 0.0
        for loss_sum, micro_weight in results:
            total = total + loss_sum
            weight = weight + micro_weight
        least = weight.clamp(min=1e-9) if isinstance(weight, Tensor) else max(weight, 1e-9)
        return torch.as_tensor(total / least), (tokens / least) / scale
