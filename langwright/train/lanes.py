"""Several micro-batches at once on a CPU: one Python thread for each core.

Torch splits each operation over the cores and waits for all of them at its end; for the short
operations of a small model the waiting costs more than it gains. Here each thread (a lane) runs
whole micro-batches with one core's operations. The lanes' models share their parameters and have
gradients of their own, which are added in a fixed order: the result does not depend on which lane
is quicker.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import torch
from torch import nn

from langwright.model import prepare_compiler
from langwright.train.compiling import compile_blocks, undo_compile

Result = TypeVar("Result")
Work = Callable[[nn.Module, int], Result]


class Lanes:
    """`count` threads and as many models that share the parameters of `model`."""

    def __init__(self, model: nn.Module, count: int) -> None:
        self.count = count
        self.models = [model] + [_sharing_copy(model) for _ in range(count - 1)]
        self._compiled = self._in_turn = False  # the next pass goes from lane to lane
        before = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(
            count, "lane", initializer=torch.set_num_threads, initargs=(1,)
        )
        list(self._pool.map(_busy, range(count)))  # start every thread now
        torch.set_num_threads(before)  # it is set for each thread, and for threads yet to come

    def map(self, work: Work[Result], count: int) -> list[Result]:
        """``work(model, i)`` for i in 0 ... count-1; gradients end up in the first model's."""

        def lane(number: int) -> list[Result]:
            if self._compiled:
                prepare_compiler()
            return [work(self.models[number], i) for i in range(number, count, self.count)]

        running: list[Future[list[Result]]] = []
        for number in range(self.count):
            running.append(self._pool.submit(lane, number))
            if self._in_turn:
                wait(running)
        wait(running)  # for all: a lane that failed must not leave others at work
        self._in_turn = False
        by_lane = [each.result() for each in running]
        self._merge_gradients()
        return [by_lane[i % self.count][i // self.count] for i in range(count)]

    def compile(self) -> None:
        """Let the blocks of all lanes run compiled; the compiler works in the next pass, for one
        lane after another: it is not made for several threads, and the first has done the work."""
        for model in self.models:
            compile_blocks(model)
        self._compiled = self._in_turn = True

    def undo_compile(self) -> None:
        """Let them run as plain Python again."""
        for model in self.models:
            undo_compile(model)
        self._compiled = False

    def drop_gradients(self) -> None:
        """Drop the gradients of all lanes but the first, whose parameters are the model's."""
        for model in self.models[1:]:
            for parameter in model.parameters():
                parameter.grad = None

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _merge_gradients(self) -> None:
        parameters = [list(model.parameters()) for model in self.models]
        for own, *others in zip(*parameters, strict=True):
            for other in others:
                if other.grad is None:
                    continue
                if own.grad is None:
                    own.grad = other.grad
                else:
                    own.grad.add_(other.grad)
                other.grad = None


def can_have_lanes(model: nn.Module) -> bool:
    """Whether micro-batches may run at once: dropout draws from one generator, in order."""
    rates = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    config = getattr(model, "config", None)
    for name in ("dropout_embedding", "dropout_attention", "dropout_residual"):
        rates.append(getattr(config, name, 0.0))
    return not any(rates)


def _sharing_copy(model: nn.Module) -> nn.Module:
    """A copy with the same parameter storage; ties inside the model stay ties."""
    memo = {id(p): nn.Parameter(p.detach(), p.requires_grad) for p in model.parameters()}
    return copy.deepcopy(model, memo)


def _busy(_: int) -> None:
    """Long enough that no thread takes two of the first tasks."""
    import time

    time.sleep(0.02)
