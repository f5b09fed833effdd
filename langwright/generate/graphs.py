"""The decoding step as one CUDA graph for each shape: recorded once, then replayed.

A step of one token is hundreds of kernels of a few microseconds each, and starting them one by one
from Python takes longer than they run. A graph starts all of them at once
(https://pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). It reads and writes the same memory
each time: so its inputs are copied to where it reads them, and where the weights or the cache have
moved everything is recorded anew. What a graph computes is compared with the step itself before
anything relies on it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOST_GRAPHS = 48  # shapes; 32 rows of 8,000 tokens at most need 42
WARM_UPS = 3  # steps before the recording: libraries prepare themselves, kernels are compiled
TOLERANCE = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}  # absolute, relative


class Recording(NamedTuple):
    """Work that can be done again on the tensors that it was recorded with."""

    replay: Callable[[], None]
    output: Tensor  # each replay leaves its result here


Record = Callable[[Callable[[], Tensor]], Recording]
"""Records a piece of work, which it may run several times; raises what the work raises."""


class CudaRecorder:
    """Records CUDA graphs on one device. All have one memory pool, so they need as much as the
    largest; that is right as they never run at the same time and their outputs are held."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool: Any = None  # torch's handle: that of a graph that is alive

    def __call__(self, work: Callable[[], Tensor]) -> Recording:
        """As `Record`."""
        cuda = torch.cuda
        # The outer `stream` brings the current one back should the end of the capture raise.
        with cuda.device(self.device), cuda.stream(cuda.current_stream()):
            side = cuda.Stream()
            side.wait_stream(cuda.current_stream())
            with cuda.stream(side):
                for _ in range(WARM_UPS):
                    work()
            cuda.current_stream().wait_stream(side)
            graph = cuda.CUDAGraph()
            # What other threads do on the device is no business of this one.
            with cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
                output = work()
            self.pool = graph.pool()
        return Recording(graph.replay, output)


class Recorded(NamedTuple):
    """What there is for one shape."""

    inputs: tuple[Tensor, ...]  # where the recording reads
    recording: Recording | None  # None: it could not be recorded
    right: bool


class StepGraphs:
    """A step that is recorded for each shape of its inputs when that comes for the first time.

    The step must come to the same when it is done again: while it is recorded, it is.

    Args:
        step: tensors -> a tensor; nothing in it waits for the device.
        watched: what else it reads and writes, whose addresses a recording knows.
        device: where it runs.
        recorder: gives what records; asked again when something watched has moved.
        exact: a replay must give the same bits; else the same up to `TOLERANCE`.
    """

    def __init__(
        self,
        step: Callable[..., Tensor],
        watched: Sequence[Tensor],
        device: torch.device,
        recorder: Callable[[], Record],
        exact: bool = False,
    ) -> None:
        self.step, self.watched, self.device = step, list(watched), device
        self.recorder, self.exact = recorder, exact
        self.shapes: dict[tuple[torch.Size, ...], Recorded] = {}
        self._start()

    @property
    def captured(self) -> int:
        """Shapes that are replayed."""
        return sum(one.right for one in self.shapes.values())

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The step's result, in memory of its own; inputs on any device."""
        if self._addresses() != self.addresses:
            self._start()
        shape = tuple(x.shape for x in inputs)
        known = self.shapes.get(shape)
        if known is None and len(self.shapes) < MOST_GRAPHS:
            return self._first(shape, inputs)
        if known is None or known.recording is None or not known.right:
            return self.step(*(x.to(self.device) for x in inputs))
        for to, x in zip(known.inputs, inputs, strict=True):
            to.copy_(x)
        known.recording.replay()
        return known.recording.output.clone()

    def _start(self) -> None:
        self.shapes.clear()
        self.addresses = self._addresses()
        self.record = self.recorder()

    def _addresses(self) -> list[int]:
        return [x.data_ptr() for x in self.watched]

    def _first(self, shape: tuple[torch.Size, ...], inputs: Sequence[Tensor]) -> Tensor:
        """Record the step for this shape; the result of the step itself, which comes last, so that
        what it leaves in memory is what counts."""
        own = tuple(x.to(self.device, copy=True) for x in inputs)
        recording, found, why = None, None, "it cannot be recorded"
        try:
            recording = self.record(functools.partial(self.step, *own))
            recording.replay()
            found = recording.output.clone()
        except Exception as error:  # whatever it is, the step itself may still work
            why = f"{why}: {error}"
        wanted = self.step(*own)
        right = found is not None and self._alike(found, wanted)
        if not right:
            why = why if found is None else "the replay gives something else"
            told = " and ".join("x".join(map(str, each)) for each in shape)
            warnings.warn(f"no CUDA graph for steps of {told} numbers: {why}", stacklevel=2)
        # A wrong one is held too: the others share its memory pool.
        self.shapes[shape] = Recorded(own, recording, right)
        return wanted

    def _alike(self, found: Tensor, wanted: Tensor) -> bool:
        tolerance = 0.0 if self.exact else TOLERANCE.get(wanted.dtype, 0.0)
        return torch.allclose(found, wanted, rtol=tolerance, atol=tolerance, equal_nan=True)
