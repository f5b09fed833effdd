"""One update: a global batch in, a change of the weights out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from langwright.base import UserError, seed_for
from langwright.dataset import Batch
from langwright.optim import OptimizerSet
from langwright.parallel import Alone
from langwright.train.compiling import compile_blocks, undo_compile
from langwright.train.lanes import Lanes
from langwright.train.loss_scale import LossScale
from langwright.train.objective import Objective
from langwright.train.router_balance import balance_routers, forget_loads
from langwright.train.smaller import give_up


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
        form: of the work over processes; None: there is only this one. Batches hold this process's
            own rows, as many as those of every other.
        router_bias_rate: see `balance_routers`.
        leave: writes down the rows of a smaller micro-batch for the next start, where one of
            several processes ran out of memory.
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
        form: Alone | None = None,
        router_bias_rate: float = 0.0,
        leave: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self.form = Alone(model) if form is None else form
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.device = device
        self.micro_rows = micro_rows
        self.clip = clip
        self.seed = seed
        self.loss_scale = loss_scale
        self.say = say
        self.router_bias_rate = router_bias_rate
        self.leave = leave
        self.lanes: Lanes | None = None

    def use_lanes(self, count: int) -> None:
        """Run `count` micro-batches at a time (see `Lanes`); 1: one after another, as usual."""
        if self.lanes is not None:
            self.lanes.close()
        self.lanes = Lanes(self.model, count) if count > 1 else None

    @property
    def pass_rows(self) -> int:
        """Rows that go through forward and backward passes at a time."""
        return self.micro_rows * (1 if self.lanes is None else self.lanes.count)

    def compile(self) -> None:
        """Let the blocks run compiled, in all lanes."""
        compile_blocks(self.model) if self.lanes is None else self.lanes.compile()

    def undo_compile(self) -> None:
        """Let them run as plain Python again."""
        undo_compile(self.model) if self.lanes is None else self.lanes.undo_compile()

    def update(self, step: int, batch: Batch, multiplier: float) -> Outcome:
        """Make one update from the global `batch`; the rate is `multiplier` times its peak.

        A batch whose loss or gradient is not finite changes nothing but the loss scale.
        """
        self.forget()
        loss, factor = self._gradients(step, batch)
        try:
            return self._change(loss, factor, multiplier)
        except RuntimeError as error:  # the optimizer's state is made in the first update
            if self.form.size > 1 and out_of_memory(error):
                raise self.give_up(batch.rows) from None
            raise

    def _change(self, loss: Tensor, factor: float | Tensor, multiplier: float) -> Outcome:
        """The rest of an update, once the gradients are there."""
        norm = self.form.clip(self.optimizer, self.clip, factor)
        bad = (~torch.isfinite(norm + loss)).float()
        self.optimizer.set_lr(multiplier)
        if self.device.type != "cpu":
            self.optimizer.step(skip=bad)
        elif not bad.item():
            self.optimizer.step()
        if self.loss_scale is not None:
            self.loss_scale.update(bad)
        # Rounds of measuring have a rate of 0 and must change nothing.
        rate = self.router_bias_rate if multiplier else 0.0
        balance_routers(self._models, rate, all_sum=self.form.all_sum, skip=bad)
        self.optimizer.zero_grad()
        return Outcome(loss, norm, bad)

    def forget(self) -> None:
        """Drop gradients, and what experts were given."""
        self.optimizer.zero_grad()
        for model in self._models:
            forget_loads(model)
        if self.lanes is not None:
            self.lanes.drop_gradients()

    @property
    def _models(self) -> list[nn.Module]:
        """The model, or those of the lanes, which share its parameters."""
        return [self.model] if self.lanes is None else self.lanes.models

    def _gradients(self, step: int, batch: Batch) -> tuple[Tensor, float | Tensor]:
        """Accumulate, and on a full device do the same in smaller pieces.

        Raises:
            UserError: memory ran out in one of several processes (see `give_up`).
        """
        while True:
            try:
                return self.accumulate(step, batch)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if self.form.size > 1:
                    raise self.give_up(batch.rows) from None
                if self.micro_rows == 1:
                    raise
                self.micro_rows = (self.micro_rows + 1) // 2
            self.forget()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.say(f"out of memory: going on with {self.micro_rows} rows at a time")

    def give_up(self, rows: int) -> UserError:
        """Memory ran out in this process of several, on its `rows` of a batch: the error to end
        with, after a smaller micro-batch was written down for the next start."""
        return give_up(self.form, self.form.rows_at_once(rows, self.micro_rows), self.leave)

    def accumulate(self, step: int, batch: Batch) -> tuple[Tensor, float | Tensor]:
        """Add up the gradients of the batch's micro-batches.

        Every micro-batch's loss *sum* is divided by the token count of the whole batch, so a
        micro-batch with few counted tokens weighs little: a mean of means would be wrong.

        Returns:
            The batch's loss (0-d fp32), and the factor by which the gradients must still be
            multiplied: one over the loss scale, and tokens / weight for an objective whose weight
            is not the number of tokens.
        """
        form = self.form
        # Of the whole batch over all processes only the places are known yet: `factor` corrects it.
        tokens = max(1, batch.tokens if form.size == 1 else batch.targets.numel() * form.data_size)
        scale = 1.0 if self.loss_scale is None else self.loss_scale.scale
        batch = form.own_part(batch)
        if self.device.type == "cuda" and not batch.inputs.is_pinned():
            batch = batch.pin_memory()  # copies then overlap with work
        micro_rows = self.micro_rows
        if self.lanes is not None:  # a batch may be smaller than when this was chosen
            micro_rows = min(micro_rows, -(-batch.rows // self.lanes.count))
        micros = batch.split(micro_rows)
        first = form.data_rank * len(micros)

        def begin(index: int) -> None:
            torch.manual_seed(seed_for(self.seed, "dropout", step, first + index))

        if self.lanes is None:
            here = [micro.to(self.device, non_blocking=True) for micro in micros]
            results = form.gradients(self.objective, here, scale / tokens, begin)
        else:  # with lanes there is no dropout to draw
            results = self.lanes.map(self._lane(micros, scale / tokens), len(micros))
        total: Tensor | float = 0.0
        weight: Tensor | float = 0.0
        for loss_sum, micro_weight in results:
            total = total + loss_sum
            weight = weight + micro_weight
        if form.size > 1:
            parts = [self._on_device(x) for x in (total, weight)]
            total, weight = form.all_sum(torch.stack(parts)).unbind()
            total, weight = total.float(), weight.float()
        least = weight.clamp(min=1e-9) if isinstance(weight, Tensor) else max(weight, 1e-9)
        return torch.as_tensor(total / least), (tokens / least) / scale

    def _on_device(self, x: Tensor | float) -> Tensor:
        """A sum as 0-d float64. The device itself writes a number down: a copy from the host would
        wait for all work that the device has been given."""
        if isinstance(x, Tensor):
            return x.to(self.device, torch.float64)
        return torch.full((), x, dtype=torch.float64, device=self.device)

    def _lane(
        self, micros: list[Batch], scale: Tensor | float
    ) -> Callable[[nn.Module, int], tuple[Tensor, Tensor | float]]:
        """The work on one micro-batch in a lane."""

        def work(model: nn.Module, index: int) -> tuple[Tensor, Tensor | float]:
            loss_sum, weight = self.objective(model, micros[index].to(self.device))
            (loss_sum * scale).backward()
            return loss_sum.detach().float(), weight

        return work


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory did not suffice, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return "DefaultCPUAllocator: can't allocate memory" in text or "out of memory" in text
