"""What a run leaves open, decided by arithmetic: activations that are kept, rows, compilation."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch

from langwright.parallel import Layout
from langwright.parallel import in_flight as pieces
from langwright.plan.devices import Device
from langwright.plan.job import Job
from langwright.plan.memory import USABLE, DeviceMemory, stage_memory
from langwright.plan.rules import (
    CPU_SHARE,
    METHODS,
    Method,
    cpu_method,
    cpu_rows,
    cpu_tokens,
    device_method,
    device_sizes,
    enough_rows,
    most_that_fit,
    pays_to_compile,
    why_not_compiled,
)
from langwright.plan.shares import Stage
from langwright.plan.speed import step_time
from langwright.plan.traffic import Traffic


def choose_pass(
    job: Job, placed: Layout, all_stages: list[Stage], device: Device, rows: int
) -> tuple[Job, int]:
    """Which activations are kept, and how many rows go through at a time, where that is open.

    On a CPU lanes are not foreseen: whether they are quicker is measured when the run begins.
    """
    if device.kind == "cpu":
        job = _cpu_method(job, placed, all_stages, device, rows)
        return job, cut(placed, rows, cpu_rows_of(job, rows))

    def fits(one: Job, size: int) -> bool:
        memory = fullest(one, placed, all_stages, device, rows, size)
        return memory.total <= usable(device, placed)

    sizes = sizes_of(job, placed, rows)
    fitting = {
        one.checkpointing: most_that_fit(sizes, functools.partial(fits, one))
        for one in methods_of(job)
    }
    return settle(job, placed, sizes, fitting)


def usable(device: Device, placed: Layout) -> float:
    """Bytes of a device's memory that one process can fill."""
    return USABLE * device.memory / sharers(device, placed)


def sharers(device: Device, placed: Layout) -> int:
    """Processes that share a device's memory: on CPUs those of one machine."""
    return min(placed.world.size, device.per_node) if device.kind == "cpu" else 1


def still_needed(
    job: Job, placed: Layout, stage: Stage, rows: int, micro_rows: int, kept: float | None
) -> int:
    """Bytes that a GPU needs for an update of `rows` besides the weights, which are there.

    kept: bytes of activations for each of its tokens, as measured; None: by arithmetic.
    """
    count = passes(placed, rows, micro_rows)
    memory = stage_memory(job, placed, stage, micro_rows, count)
    activations = float(memory.activations)
    if kept is not None:
        activations = kept * micro_rows * job.sequence_length / placed.cp
    return int(memory.total - memory.weights - memory.activations + activations)


def methods_of(job: Job) -> list[Job]:
    """The job with each method of checkpointing that may be chosen."""
    if job.checkpointing != "auto":
        return [job]
    return [replace(job, checkpointing=method) for method in METHODS]


def cpu_rows_of(job: Job, rows: int) -> int:
    """Rows of a pass on a CPU."""
    if job.micro_rows is not None:
        return min(job.micro_rows, rows)
    return cpu_rows(rows, job.sequence_length)


def sizes_of(job: Job, placed: Layout, rows: int) -> list[int]:
    """Rows of a pass on a GPU that may be chosen, the largest first.

    rows: of a batch, for one device.
    """
    if job.micro_rows is not None:
        return [cut(placed, rows, min(job.micro_rows, rows))]
    sizes = device_sizes(rows, job.sequence_length // placed.cp)
    return [cut(placed, rows, size) for size in sizes]


def settle(job: Job, placed: Layout, sizes: list[int], fitting: dict[Any, int]) -> tuple[Job, int]:
    """The job with a method, and its rows of a pass on a GPU.

    fitting: for each method that may be chosen, the largest of `sizes` that fits, or 0.
    """
    enough = enough_rows(sizes[0], job.sequence_length // placed.cp)
    method = job.checkpointing
    if method == "auto":
        method = device_method(fitting, enough)
    return replace(job, checkpointing=method), fitting[method] or sizes[-1]


def _cpu_method(
    job: Job, placed: Layout, all_stages: list[Stage], device: Device, rows: int
) -> Job:
    """The method of `cpu_method`; processes of one machine share its memory."""
    if job.checkpointing != "auto":
        return job
    lanes = (job.lanes or torch.get_num_threads()) if placed.alone else 1
    tokens = cpu_tokens(rows, job.sequence_length, job.micro_rows, lanes)
    room = CPU_SHARE * device.memory / sharers(device, placed)

    def needed(method: Method) -> float:
        one = replace(job, checkpointing=method)
        return activations_of(one, placed, all_stages, rows, tokens // job.sequence_length)

    return replace(job, checkpointing=cpu_method(needed, room))


def activations_of(
    job: Job, placed: Layout, all_stages: list[Stage], rows: int, at_once: int
) -> int:
    """Bytes of activations on the fullest device, with `at_once` of its `rows` going through."""
    count, at_once = passes(placed, rows, at_once), cut(placed, rows, at_once)
    each = [stage_memory(job, placed, stage, at_once, count) for stage in all_stages]
    return max(memory.activations for memory in each)


def choose_compiled(
    job: Job,
    placed: Layout,
    device: Device,
    all_stages: list[Stage],
    traffic: list[Traffic],
    micro_rows: int,
    micro_batches: int,
) -> Job:
    """Whether blocks are compiled, where that is open: if the layout allows it and the run is long
    enough. (The trainer also measures that it is quicker.)"""
    if job.compiled != "auto":
        return job
    plain = replace(job, compiled=False)
    if why_not_compiled(placed) is not None:
        return plain
    seconds = None if job.minutes is None else 60.0 * job.minutes
    if seconds is None and job.steps is not None:
        time = step_time(plain, placed, device, all_stages, traffic, micro_rows, micro_batches)
        seconds = job.steps * time.total
    return replace(job, compiled=pays_to_compile(device.kind, seconds))


def passes(placed: Layout, rows: int, micro_rows: int) -> int:
    """Micro-batches of an update on each device."""
    return -(-rows // micro_rows) if placed.pp == 1 else pieces(rows, micro_rows, placed)


def cut(placed: Layout, rows: int, micro_rows: int) -> int:
    """Rows of a micro-batch; a pipeline cuts them further, so that all its processes work."""
    return micro_rows if placed.pp == 1 else rows // pieces(rows, micro_rows, placed)


def fullest(
    job: Job,
    placed: Layout,
    all_stages: list[Stage],
    device: Device,
    rows: int,
    micro_rows: int,
) -> DeviceMemory:
    """Memory of the stage that needs most."""
    count = passes(placed, rows, micro_rows)
    each = [stage_memory(job, placed, s, micro_rows, count, device.kind) for s in all_stages]
    return max(each, key=lambda one: one.total)
