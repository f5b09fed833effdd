"""When checkpoints are written, by whom, and what happens if that fails.

On a GPU, and with several processes, a checkpoint costs the training only a copy into main memory:
a thread writes it while training goes on, and talks to its fellows on a group of its own. A
checkpoint that cannot be written (a full disk) is told and given up; the last good one stays.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from langwright.base import Config, UserError
from langwright.optim import OptimizerSet
from langwright.parallel import Alone, Distributed, Piece, restore
from langwright.train.checkpoint import (
    BEST,
    Checkpoint,
    clear_leftovers,
    keep_newest,
    model_tensors,
    newest_checkpoint,
    open_checkpoint,
    restore_model,
    save_best,
    save_best_pieces,
    save_checkpoint,
    save_pieces,
)
from langwright.train.config import TrainConfig
from langwright.train.writable import check_writable

SAVE_SHARE = 0.02  # of the time may go into saving
FULL = "the disk is full"


class Saver:
    """The checkpoints of a run. All processes make one, and call its methods together.

    Args:
        folder: of the checkpoints.
        form: how the model is spread over processes.
        optimizer: of its parameters.
        config: when to save, and what to keep.
        say: told what could not be saved.
    """

    def __init__(
        self,
        folder: Path,
        form: Alone,
        optimizer: OptimizerSet,
        config: TrainConfig,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.form, self.optimizer, self.config = folder, form, optimizer, config
        self.failed = 0  # checkpoints that could not be written
        self._say = say
        self._device = next(form.model.parameters()).device
        several = isinstance(form, Distributed)
        wanted = config.checkpoint_async
        background = several or self._device.type == "cuda" if wanted == "auto" else wanted
        self._thread = ThreadPoolExecutor(1, "checkpoint") if background else None
        self._jobs: list[Future[None]] = []
        self._news: list[str] = []  # from the thread
        self._host: dict[str, Tensor] = {}  # where live tensors are copied to
        self._group = _own_group() if several else None
        self._ended, self._stall, self._wrote = time.perf_counter(), 0.0, 0.0
        self._staged: tuple[int, dict[str, Any]] = (-1, {})  # step, what is written of it
        check_writable(folder, form, "checkpoints")

    # -- when -------------------------------------------------------------------------------------

    def due(self, step: int) -> tuple[bool, bool]:
        """Whether a checkpoint is due, and whether it is if an evaluation comes now: a kill there
        would lose more, so the last one need only have paid for itself."""
        self._tell()
        for every in (self.config.checkpoint_every, self.config.keep_every):
            if every and step % every == 0:
                return True, True
        if any(not job.done() for job in self._jobs):
            return False, False
        # A thread of ours takes the cores from a training on the CPU.
        cost = self._stall + (self._wrote if self._thread and self._device.type == "cpu" else 0.0)
        since = time.perf_counter() - self._ended
        interval = max(60.0 * self.config.checkpoint_minutes, cost / SAVE_SHARE)
        return since >= interval, since >= cost / SAVE_SHARE

    def saved(self, step: int) -> bool:
        """Whether the checkpoint of a step is there; what is being written is waited for."""
        self.wait()
        return bool(self.form.agree((self.folder / f"step-{step:07d}").exists()))

    # -- writing ----------------------------------------------------------------------------------

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Save weights, the optimizer's state and `state` (plain JSON) after `step` updates."""
        begun = time.perf_counter()
        self.wait()
        state = {**state, **self._about()}
        scalars = self.optimizer.state_dict()["scalars"]
        staged: dict[str, Any]
        if isinstance(self.form, Distributed):
            staged = self._copies(self.form.state(self.optimizer))

            def write() -> None:
                save_pieces(self.folder, step, staged, scalars, state, self._group)

        else:
            staged = self._copy("model/", model_tensors(self.form.model))
            tensors = self._copy("optimizer/", self.optimizer.state_dict()["tensors"])

            def write() -> None:
                optimizer = {"tensors": tensors, "scalars": scalars}
                save_checkpoint(self.folder, step, staged, optimizer, state)

        def work() -> None:
            write()
            if self.form.first:
                keep_newest(self.folder, self.config.keep_last, self.config.keep_every)

        self._start(work, f"step {step:,}")
        self._staged = (step, staged)
        self._ended = time.perf_counter()
        self._stall = self._ended - begun

    def save_best(self, step: int, losses: Mapping[str, float]) -> None:
        """Save the weights after `step` updates as the best ones so far."""
        state = {"step": step, **losses, **self._about()}
        if self._staged[0] != step:
            self.wait()
        weights: dict[str, Any]
        if isinstance(self.form, Distributed):
            if self._staged[0] == step:
                weights = {n: p for n, p in self._staged[1].items() if n.startswith("model/")}
            else:
                weights = self._copies(self.form.state())

            def write() -> None:
                save_best_pieces(self.folder, weights, state, self._group)

        else:
            weights = self._staged[1]
            if self._staged[0] != step:
                weights = self._copy("model/", model_tensors(self.form.model))

            def write() -> None:
                save_best(self.folder, weights, state)

        self._start(write, "the best model")

    def wait(self) -> None:
        """Until everything is written, or given up."""
        for job in self._jobs:
            job.result()
        self._jobs.clear()
        self._tell()

    def close(self) -> None:
        """Wait, and end the thread."""
        self.wait()
        if self._thread is not None:
            self._thread.shutdown()

    # -- reading ----------------------------------------------------------------------------------

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, if any."""
        return newest_checkpoint(self.folder, self._say, self.form)

    def restore(self, found: Checkpoint) -> None:
        """Put a checkpoint's weights and optimizer state where they belong."""
        if isinstance(self.form, Distributed):
            scalars = found.state["optimizer_scalars"]
            restore(self.form, found.path, self.optimizer, scalars)
        else:
            restore_model(self.form.model, found.weights(), found.path)
            self.optimizer.load_state_dict(found.optimizer())

    def restore_best(self) -> int:
        """Put the best weights into the model; the step they are of.

        Raises:
            UserError: they could not be saved, or are broken.
        """
        self.wait()
        found = open_checkpoint(self.folder / BEST, self.form.rank, self.form.size)
        if isinstance(self.form, Distributed):
            restore(self.form, found.path)
        else:
            restore_model(self.form.model, found.weights(), found.path)
        return int(found.state["step"])

    # -- inside -----------------------------------------------------------------------------------

    def _about(self) -> dict[str, Any]:
        """What makes a checkpoint understandable by itself."""
        config = getattr(self.form.model, "config", None)
        about = {"model": config.to_json() if isinstance(config, Config) else None}
        if isinstance(self.form, Distributed):
            about["layout"] = self.form.layout.describe()
        return about

    def _copies(self, pieces: Mapping[str, Piece]) -> dict[str, Piece]:
        own = {name: piece for name, piece in pieces.items() if piece.primary}
        copies = self._copy("", {name: piece.tensor for name, piece in own.items()})
        return {name: replace(piece, tensor=copies[name]) for name, piece in own.items()}

    def _copy(self, prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies in main memory, if a thread is to write them; in memory that is used again."""
        if self._thread is None:
            return dict(tensors)
        cuda = self._device.type == "cuda"
        copies = {}
        for name, tensor in tensors.items():
            host = self._host.get(prefix + name)
            if host is None or host.shape != tensor.shape or host.dtype != tensor.dtype:
                pinned = cuda and tensor.is_cuda
                host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
                self._host[prefix + name] = host
            copies[name] = host.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
        if cuda:  # the next update comes after the copies on the device; the thread waits for them
            self._copied = torch.cuda.Event()
            self._copied.record()
        return copies

    def _start(self, work: Callable[[], None], what: str) -> None:
        if self._thread is None:
            self._attempt(work, what)
            return
        copied = getattr(self, "_copied", None)

        def later() -> None:
            if copied is not None:
                copied.synchronize()
            self._attempt(work, what)

        self._jobs.append(self._thread.submit(later))

    def _attempt(self, work: Callable[[], None], what: str) -> None:
        """Write; a failure costs this checkpoint, not the run."""
        begun = time.perf_counter()
        try:
            work()
        except (OSError, SafetensorError, RuntimeError, UserError) as error:
            self.failed += 1
            if self.form.first:
                self._give_up(what, error)
        self._wrote = time.perf_counter() - begun

    def _give_up(self, what: str, error: Exception) -> None:
        """Remove the half-written one; where the disk is full, make room for the next one by
        dropping all but the newest good one."""
        clear_leftovers(self.folder)
        reason = _reason(error)
        kept = newest_checkpoint(self.folder, self._news.append)
        if kept is not None and reason == FULL:
            keep_newest(self.folder, 1, self.config.keep_every)
        last = "there is none yet" if kept is None else f"the last one is {kept.path.name}"
        self._news.append(f"{what} could not be saved ({reason}): {last}; training goes on")

    def _tell(self) -> None:
        while self._news:
            self._say(self._news.pop(0))


def _reason(error: Exception) -> str:
    """What went wrong, in a few words."""
    if os.strerror(errno.ENOSPC) in str(error):  # safetensors has no error number
        return FULL
    if isinstance(error, UserError):
        return error.message
    return getattr(error, "strerror", None) or str(error)


def _own_group() -> Any:
    """A group over CPUs for the thread's messages: on the training's own group they would be
    taken for the training's."""
    import torch.distributed as dist

    return dist.new_group(backend="gloo")
