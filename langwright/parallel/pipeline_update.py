"""One update of a pipeline: this process's actions, one after another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from langwright.base import UserError
from langwright.dataset import Batch
from langwright.parallel.alone import Objective, Sums
from langwright.parallel.layout import Layout
from langwright.parallel.messages import Message, Messages
from langwright.parallel.schedules import Action
from langwright.parallel.stages import Stage

if TYPE_CHECKING:
    from langwright.parallel.pipeline import Pipeline


class Update:
    """The work of one update on this process.

    Args:
        pipeline: of this process.
        objective: see `Alone.gradients`.
        micros: the micro-batches, all of the same shape, with positions.
        scale: factor on the loss sums.
        plan: all processes' actions.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        objective: Objective,
        micros: list[Batch],
        scale: float | Tensor,
        plan: list[list[Action]],
    ) -> None:
        self.pipeline, self.objective, self.micros = pipeline, objective, micros
        self.scale = scale * pipeline.factor
        like = pipeline.between(micros[0].inputs)
        self.messages = Messages(pipeline.post, plan, pipeline.count, like)
        self.held: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}  # inputs, outputs
        self.later: dict[tuple[int, int], list[Callable[[], None]]] = {}
        self.left = {index: len(micros) for index in pipeline.stages}  # backward passes to come
        self.total = torch.zeros((), device=pipeline.device)
        self.weight = torch.zeros((), dtype=torch.float64, device=pipeline.device)
        for stage in pipeline.stages.values():
            stage.router.total, stage.router.weight = 0.0, self.scale

    def do(self, action: Action) -> None:
        """One action."""
        stage = self.pipeline.stages[action.stage]
        if action.kind == "weights":
            for product in self.later.pop((action.stage, action.micro)):
                product()
        elif action.kind == "forward":
            with self.pipeline.own_tokens():
                self._forward(stage, action.micro)
        else:
            with self.pipeline.own_tokens():
                self._backward(stage, action.micro, put_off=action.kind == "inputs")

    def finish(self) -> None:
        """Wait until all messages have been sent, and gradients added up."""
        self.messages.finish()
        for stage in self.pipeline.stages.values():
            if stage.later is not None:
                self._synchronise(stage.root, last=True)
                _settle(stage.root)

    def _forward(self, stage: Stage, number: int) -> None:
        micro = self.micros[number]
        x = micro.inputs
        if not stage.first:
            x = self.messages.receive(Message(False, stage.index, number)).requires_grad_()
        stage.router.tokens = micro.tokens
        if stage.last:
            y, weight = stage.root(_objective_of, x, self.objective, micro)
            self.total += y.detach()
            self.weight += weight
            y = y * self.scale
        else:
            y = stage.root(hidden_of, x, micro.segments, micro.positions)
            self.messages.send(Message(False, stage.index + 1, number), y.detach())
        self.held[stage.index, number] = x, y

    def _backward(self, stage: Stage, number: int, put_off: bool) -> None:
        x, y = self.held.pop((stage.index, number))
        self.left[stage.index] -= 1
        # Where gradients of weights come later, they are added up over processes at the very end.
        last = self.left[stage.index] == 0 and stage.later is None
        self._synchronise(stage.root, last)
        grad = None
        if not stage.last:
            grad = self.messages.receive(Message(True, stage.index, number))
        if put_off and stage.later is not None:
            with stage.later.putting_off() as products:
                torch.autograd.backward(y, grad)
            self.later[stage.index, number] = products
        else:
            torch.autograd.backward(y, grad)
        if not stage.first:
            assert x.grad is not None
            self.messages.send(Message(True, stage.index - 1, number), x.grad)

    def _synchronise(self, root: Any, last: bool) -> None:
        """Of a stage's backward passes only the last one adds up over the data's processes (each
        one over the shards where gradients stay sharded), and drops gathered weights (unless they
        are to be dropped always)."""
        if not hasattr(root, "set_requires_gradient_sync"):
            return
        always = self.pipeline.layout.config.reshard == "always"
        root.set_requires_gradient_sync(last or self.pipeline.accumulates_sharded)
        root.set_requires_all_reduce(last)
        root.set_is_last_backward(last)
        root.set_reshard_after_backward(last or always)


def _settle(root: nn.Module) -> None:
    """A backward pass through nothing: FSDP adds up what gradients there are, all modules' that a
    backward pass did not come through."""
    if hasattr(root, "set_requires_gradient_sync"):
        anchor = torch.zeros((), device=next(root.parameters()).device, requires_grad=True)
        root(_same, anchor).backward()


def _same(model: Any, x: Tensor) -> Tensor:
    return x.clone()


def hidden_of(model: Any, x: Tensor, segments: Tensor | None, positions: Tensor) -> Tensor:
    return model.hidden(x, segments=segments, positions=positions)


def _objective_of(model: Any, x: Tensor, objective: Objective, micro: Batch) -> Sums:
    return objective(model, dataclasses.replace(micro, inputs=x))


def joined(micros: Sequence[Batch]) -> Batch:
    """Micro-batches as one batch."""
    if len(micros) == 1:
        return micros[0]

    def cat(name: str) -> Any:
        tensors = [getattr(micro, name) for micro in micros]
        return None if tensors[0] is None else torch.cat(tensors)

    names = ("inputs", "targets", "segments", "positions")
    return Batch(**{name: cat(name) for name in names}, tokens=sum(m.tokens for m in micros))


def in_flight(rows: int, micro_rows: int, layout: Layout) -> int:
    """Into how many micro-batches a process's rows are cut: the smallest even number of parts with
    at most `micro_rows` rows each and at least twice as many as there are processes, as far as
    there are rows; or as the config says.

    Raises:
        UserError: there is no such number.
    """
    config = layout.config
    wanted = config.pipeline_microbatches or min(rows, 2 * layout.pp)
    least = max(wanted, -(-rows // micro_rows))
    step = layout.pp if config.schedule == "interleaved" else 1
    fitting = [n for n in range(least, rows + 1) if rows % n == 0 and n % step == 0]
    if not fitting:
        raise UserError(
            "the rows of a batch cannot be cut into micro-batches for the pipeline",
            where="parallel.pipeline_microbatches",
            found=f"{rows} rows on each process",
            expected=f"a multiple of at least {least} micro-batches"
            + (f", their number a multiple of {step} (interleaved)" if step > 1 else ""),
            fix="other batch_tokens or pipeline_microbatches",
        )
    return fitting[0]
