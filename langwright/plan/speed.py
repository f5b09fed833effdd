"""How long one update takes, as far as arithmetic can tell: a roofline with a few constants.

Matrix products run at a share of the peak, everything else at a share of the memory's bandwidth,
and each layer has a least time in which its kernels can be started (Williams et al. 2009).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from langwright.model import flops_per_token, matmul_flops_per_token
from langwright.parallel import Layout, duration, schedule
from langwright.plan.devices import Device
from langwright.plan.job import Job
from langwright.plan.memory import kept_values
from langwright.plan.shares import Stage, chunks
from langwright.plan.traffic import Traffic

PRODUCTS = 0.6  # of the peak, that large matrix products reach in a training step
PRODUCTS_FP8 = 0.4  # of fp8's, with the scaling and the products that stay in bf16
ATTENTION = 0.4  # of the peak, that attention's products reach
MEMORY = 0.75  # of the bandwidth, that passes over memory reach
OVERLAP = 0.9  # of the computation, behind which communication can be hidden
OPTIMIZER_BYTES = {"muon": 24, "sgd": 16}  # read and written per parameter; Adam 28
KERNEL_SECONDS = 6e-6  # to start one kernel
KERNELS = {True: 30, False: 70}  # of one layer, forward and backward; compiled or not


@dataclass(frozen=True)
class StepTime:
    """Seconds of one update, by cause. They add up to `total`."""

    products: float  # matrix products and attention
    memory: float  # norms, activations, residuals, loss
    optimizer: float
    communication: float  # what is not hidden behind computation
    bubble: float  # a pipeline's waiting

    @property
    def total(self) -> float:
        """Seconds of one update."""
        return self.products + self.memory + self.optimizer + self.communication + self.bubble


def step_time(
    job: Job,
    layout: Layout,
    device: Device,
    all_stages: list[Stage],
    traffic: list[Traffic],
    micro_rows: int,
    micro_batches: int,
) -> StepTime:
    """Expected seconds of one update of `micro_batches` on every device."""
    tokens = micro_rows * job.sequence_length * micro_batches / layout.cp  # of one device
    share = 1 / (layout.tp * layout.pp)  # of a token's work
    rate = PRODUCTS * device.peak(multiplied(job))
    if job.precision == "fp8":
        rate = PRODUCTS_FP8 * device.peak("fp8")
    attended = ATTENTION * device.peak(multiplied(job))
    fed = matmul_flops_per_token(job.model, job.sequence_length)
    attention = fed - matmul_flops_per_token(job.model, 1)
    again = 1 + recomputed(job) / 3
    products = tokens * share * again * ((fed - attention) / rate + attention / attended)
    memory = _memory_seconds(job, layout, device, all_stages, tokens)
    launch = KERNELS[job.compiled is True] * KERNEL_SECONDS * micro_batches
    launch *= max(len(stage.layers) for stage in all_stages) if device.bandwidth else 0
    compute = max(products + memory, launch)
    memory = compute - products
    waiting = bubble_share(layout, micro_batches) * compute
    exposed = sum(row.seconds for row in traffic if not row.hidden)
    behind = sum(row.seconds for row in traffic if row.hidden)
    exposed += max(0.0, behind - OVERLAP * compute)
    return StepTime(products, memory, _optimizer_seconds(job, device, all_stages), exposed, waiting)


def recomputed(job: Job) -> float:
    """Share of the forward pass's products that checkpointing does again."""
    if job.checkpointing == "budget":
        return max(0.0, 0.5 - job.activation_budget)  # the cheap parts are dropped first
    return {"selective": 0.05, "full": 1.0}.get(job.checkpointing, 0.0)


def bubble_share(layout: Layout, micro_batches: int) -> float:
    """A pipeline's waiting, as a share of its work: with 1F1B (p-1)/m for p stages and m
    micro-batches (Huang et al. 2018); others as their schedule works out."""
    if layout.pp == 1:
        return 0.0
    actions = schedule(layout.config.schedule, layout.pp, chunks(layout), micro_batches)
    whole, work = duration(actions, layout.pp)
    return whole / work - 1


def utilisation(job: Job, device: Device, world: int, seconds: float) -> float:
    """Share of all devices' peak, by the usual rule of 6 N + 12 L d T FLOPs for a token."""
    flops = flops_per_token(job.model, job.sequence_length) * job.step_tokens
    return flops / (seconds * world * device.peak(multiplied(job)))


def multiplied(job: Job) -> str:
    """The number format that shares of the peak are counted by: with fp8 still bf16, since only a
    part of the products is in fp8."""
    return "bf16" if job.precision == "fp8" else job.precision


def _memory_seconds(
    job: Job, layout: Layout, device: Device, all_stages: list[Stage], tokens: float
) -> float:
    """Passes over activations: what is kept is written once and read twice, its gradient written
    and read; uncompiled, each elementwise step goes over memory by itself."""
    if device.bandwidth is None:
        return 0.0
    plain = replace(job, checkpointing="none")
    fullest = max(
        sum(kept_values(plain, layout, layer) for layer in stage.layers) for stage in all_stages
    )
    passes = 5 if job.compiled is True else 9
    sent = tokens * fullest * passes * job.value_bytes
    # The head's logits: written, read, turned into their gradient, read twice.
    logits = tokens * job.model.vocab_size / layout.tp * (4 * 2 + 3 * job.value_bytes)
    return (sent + logits / layout.pp) / (MEMORY * device.bandwidth)


def _optimizer_seconds(job: Job, device: Device, all_stages: list[Stage]) -> float:
    """One pass over weights, gradients and moments; for Muon also its matrix products."""
    most = max(stage.parameters for stage in all_stages)
    seconds = 0.0
    if device.bandwidth is not None:
        seconds = most * OPTIMIZER_BYTES.get(job.optimizer, 28) / (MEMORY * device.bandwidth)
    if job.optimizer == "muon":  # 5 steps of 3 products (n, m)(m, n): 30 n per value, n the width
        matrices = max(stage.kept.get("matrix", 0) for stage in all_stages)
        peak = device.peaks.get("bf16") or device.peak(job.precision)
        seconds += 30 * job.model.width * matrices / (PRODUCTS * peak)
    return seconds
