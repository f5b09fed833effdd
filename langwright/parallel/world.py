"""The processes of a run, as `torchrun` tells them: who am I, how many are we.

Rank counts all processes, local rank those of one machine; each process drives one device. Only
rank 0 prints and writes.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from langwright.base import UserError
from langwright.parallel.meeting import fresh_store

TIMEOUT = datetime.timedelta(minutes=10)  # of one collective operation


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    device: str = "cpu"  # this process's own, such as "cuda:3"
    local_size: int = 1  # processes on this machine

    @property
    def backend(self) -> str:
        """The library that carries tensors: NCCL between GPUs, gloo between CPUs."""
        return "cpu:gloo,cuda:nccl" if self.device.startswith("cuda") else "gloo"

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0


def world(device: str = "auto") -> World:
    """Read torchrun's environment variables; alone where there are none.

    Args:
        device: auto (a GPU of its own if there is one, else the CPU), cuda or cpu.

    Raises:
        UserError: the variables do not fit together, or a GPU is missing.
    """
    size, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
    local_rank = _number("LOCAL_RANK", 0)
    if not 0 <= rank < size:
        raise UserError(
            "RANK must be below WORLD_SIZE",
            where="environment",
            found=f"RANK={rank}, WORLD_SIZE={size}",
            fix="start the processes with torchrun",
        )
    here = _number("LOCAL_WORLD_SIZE", size)
    return World(rank, size, local_rank, _device(device, local_rank, size), here)


@contextlib.contextmanager
def process_group(world: World) -> Iterator[None]:
    """Within this context the processes can talk to one another.

    Alone, or inside another such context, it does nothing.
    """
    import torch.distributed as dist

    if world.size == 1 or dist.is_initialized():
        yield
        return
    options: dict[str, Any] = {}
    if world.device.startswith("cuda"):
        torch.cuda.set_device(torch.device(world.device))
        options["device_id"] = torch.device(world.device)
    store = fresh_store(world.rank, world.size, TIMEOUT)
    if store is None:
        options["init_method"] = os.environ.get("LANGWRIGHT_INIT_METHOD", "env://")
    dist.init_process_group(
        world.backend,
        store=store,
        rank=world.rank,
        world_size=world.size,
        timeout=TIMEOUT,
        **options,
    )
    try:
        yield
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _device(wanted: str, local_rank: int, size: int) -> str:
    kind, _, number = wanted.partition(":")
    if kind not in ("auto", "cuda"):
        return wanted
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto" and there == 0:
        return "cpu"
    if size == 1:
        return f"cuda:{number or 0}"
    if local_rank >= there:
        raise UserError(
            "more processes on this machine than GPUs",
            where="environment",
            found=f"LOCAL_RANK={local_rank}, {there} GPUs",
            fix="torchrun --nproc-per-node with at most the number of GPUs",
        )
    return f"cuda:{local_rank}"


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise UserError("not a number", where=f"environment variable {name}", found=text) from None
