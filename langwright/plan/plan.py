"""A plan: does the run fit, how much is sent, how long will it take."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from langwright.base import UserError
from langwright.model import flops_per_token, parameter_count
from langwright.parallel import Layout, ParallelConfig, World, layout
from langwright.plan.decide import choose_compiled, choose_pass, fullest, passes, usable
from langwright.plan.devices import Device
from langwright.plan.job import Job
from langwright.plan.memory import (
    MASTER,
    DeviceMemory,
    host_bytes,
    state_bytes,
)
from langwright.plan.shares import Stage, stages
from langwright.plan.speed import StepTime, step_time, utilisation
from langwright.plan.traffic import Traffic, all_traffic

MACHINE = 8  # devices of a usual one


@dataclass(frozen=True)
class Plan:
    """What a run will need, and take."""

    job: Job
    device: Device
    layout: Layout
    stages: list[Stage]
    micro_rows: int  # rows in one forward pass of one device
    micro_batches: int  # of one update, on each device
    memory: DeviceMemory  # of the fullest device
    traffic: list[Traffic]  # of the device that sends most
    time: StepTime

    @property
    def world(self) -> int:
        """Number of devices."""
        return self.layout.world.size

    @property
    def fits(self) -> bool:
        """Whether the fullest device has room."""
        return self.memory.total <= self.room

    @property
    def room(self) -> float:
        """Bytes that one process can fill."""
        return usable(self.device, self.layout)

    @property
    def host_bytes(self) -> int:
        """Main memory that offloading takes for one device, at most."""
        size, count = self.micro_rows, self.micro_batches
        kind = self.device.kind
        each = (host_bytes(self.job, self.layout, s, size, count, kind) for s in self.stages)
        return max(each)

    @property
    def tokens_per_second(self) -> float:
        """All devices together."""
        return self.job.step_tokens / self.time.total

    @property
    def steps(self) -> int | None:
        """Updates of the whole run; of one that has a time, as many as are expected in it."""
        if self.job.minutes is not None:
            return max(1, int(60 * self.job.minutes / self.time.total))
        return self.job.steps

    @property
    def tokens(self) -> int | None:
        """Tokens of the whole run."""
        return None if self.steps is None else self.steps * self.job.step_tokens

    @property
    def flops(self) -> float | None:
        """FLOPs of the whole run."""
        if self.tokens is None:
            return None
        return self.tokens * flops_per_token(self.job.model, self.job.sequence_length)

    @property
    def seconds(self) -> float | None:
        """Of the whole run, without evaluations and checkpoints."""
        return None if self.steps is None else self.steps * self.time.total

    @property
    def utilisation(self) -> float:
        """Expected share of the devices' peak (MFU)."""
        return utilisation(self.job, self.device, self.world, self.time.total)

    @property
    def checkpoint_bytes(self) -> int:
        """Weights and optimizer state of the whole model, fp32."""
        alone = layout(ParallelConfig.parse({}), World())
        states = state_bytes(self.job, alone, stages(self.job.model, alone)[0])
        return MASTER * parameter_count(self.job.model).total + states

    def to_json(self) -> dict[str, Any]:
        """Plain values: bytes, seconds, FLOPs."""
        return {
            "device": self.device.name,
            "world": self.world,
            "layout": self.layout.sizes,
            "parameters": parameter_count(self.job.model).total,
            "micro_batch_rows": self.micro_rows,
            "micro_batches": self.micro_batches,
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "device_memory": self.device.memory,
            "host_memory": self.host_bytes,
            "fits": self.fits,
            "traffic": [{**asdict(row), "seconds": row.seconds} for row in self.traffic],
            "step_seconds": {**asdict(self.time), "total": self.time.total},
            "tokens_per_second": self.tokens_per_second,
            "utilisation": self.utilisation,
            "steps": self.steps,
            "tokens": self.tokens,
            "flops": self.flops,
            "seconds": self.seconds,
            "checkpoint_bytes": self.checkpoint_bytes,
        }


def make_plan(job: Job, device: Device, world: int = 1) -> Plan:
    """Plan a run on `world` devices; what is open is decided as the trainer decides it.

    Raises:
        UserError: the degrees do not fit the world, the model or the batch.
    """
    placed = _placed(job, device, world)
    _check_model(job, placed)
    all_stages = stages(job.model, placed)
    rows = _rows_of_device(job, placed)
    job, micro_rows = choose_pass(job, placed, all_stages, device, rows)
    micro_batches = passes(placed, rows, micro_rows)
    each = [all_traffic(job, placed, device, s, micro_rows, micro_batches) for s in all_stages]
    traffic = max(each, key=lambda one: sum(row.bytes for row in one))
    job = choose_compiled(job, placed, device, all_stages, traffic, micro_rows, micro_batches)
    time = step_time(job, placed, device, all_stages, traffic, micro_rows, micro_batches)
    return Plan(
        job,
        device,
        placed,
        all_stages,
        micro_rows,
        micro_batches,
        fullest(job, placed, all_stages, device, rows, micro_rows),
        traffic,
        time,
    )


def _placed(job: Job, device: Device, world: int) -> Layout:
    """The layout; where the devices are too few or do not divide, what to plan with instead."""
    config = job.parallel
    degrees = (config.pp, config.cp, config.tp, config.dp_replicate, config.dp_shard)
    least = math.prod(degree for degree in degrees if degree != -1)
    try:
        return layout(config, World(size=world))
    except UserError as error:
        open_ = degrees.count(-1)
        if least < 1 or open_ > 1 or (world % least == 0 if open_ else world == least):
            raise  # their number is not what is wrong
        # As many as a whole machine has, where the rest may be anything.
        enough = -(-max(least, MACHINE) // least) * least if open_ else least
        name = "h100" if device.name == "this" else device.name
        raise UserError(
            f"{world} device{'s' if world != 1 else ''} cannot be shared out so",
            where=error.where,
            found=error.found,
            expected=f"a multiple of {least} devices" if open_ else f"{least} devices",
            fix=f"--world {enough} --device {name}, or other degrees",
        ) from None


def _rows_of_device(job: Job, placed: Layout) -> int:
    """Rows of one update for one data rank."""
    if job.batch_rows % placed.data_size:
        raise UserError(
            "the rows of a batch cannot be shared out evenly",
            where="pretrain.batch_tokens",
            found=f"{job.batch_rows} rows of {job.sequence_length} tokens",
            expected=f"a multiple of {placed.data_size} rows (dp_replicate x dp_shard)",
        )
    return job.batch_rows // placed.data_size


def _check_model(job: Job, placed: Layout) -> None:
    """What does not divide is said before anything is started."""
    config = job.model
    rows: list[tuple[bool, str, object, str]] = [
        (config.heads % placed.tp != 0, "heads must divide by tp", config.heads, "tp"),
        (config.layers < placed.pp, "fewer layers than pipeline stages", config.layers, "pp"),
        (
            job.sequence_length % placed.cp != 0,
            "the sequence must divide by cp",
            job.sequence_length,
            "cp",
        ),
    ]
    if placed.config.ep > 1:
        count = config.experts.count if config.experts else 0
        broken = count == 0 or count % placed.config.ep != 0
        rows.append((broken, "experts must divide by ep", count, "ep"))
    for broken, message, found, edge in rows:
        if broken:
            degree = placed.config.ep if edge == "ep" else placed.sizes[edge]
            raise UserError(
                message, where=f"parallel.{edge}", found=found, expected=f"{edge} = {degree} fits"
            )
