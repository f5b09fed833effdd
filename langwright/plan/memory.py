"""Bytes that one device holds during training, by cause. An estimate, as arithmetic.

Follows Korthikanti et al. 2022 (arXiv:2205.05198) for activations under tensor and sequence
parallelism, and Rajbhandari et al. 2019 (ZeRO, arXiv:1910.02054) for sharded states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from langwright.model import ModelConfig, training_memory
from langwright.parallel import Layout, choose_accumulation, schedule
from langwright.plan.job import Job
from langwright.plan.shares import Stage, chunks

MASTER = 4  # bytes of a weight and of its gradient: fp32
# Bytes of optimizer state per parameter of each kind; Muon keeps one moment of the matrices.
STATE_BYTES = {"adamw": 8, "adamw_reference": 8, "adam_l2": 8, "muon": 8, "galore": 8, "sgd": 4}
MUON_MATRIX = 4
WHOLE_MATRICES = ("muon", "galore")  # these update each matrix as a whole
LOGIT_VALUES = {"cpu": 2**21, "cuda": 2**27}  # that stand at once, as the loss cuts its chunks
# Share of the device that can be filled; the rest is the driver's, the libraries' and gaps.
USABLE = 0.92


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes on the fullest device."""

    weights: int
    gradients: int
    optimizer: int
    gathered: int  # weights (and gradients) brought together, and copies in the compute format
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All together."""
        return sum(getattr(self, part.name) for part in fields(self))

    @property
    def states(self) -> int:
        """What does not depend on the batch."""
        return self.weights + self.gradients + self.optimizer + self.gathered


def stage_memory(
    job: Job,
    layout: Layout,
    stage: Stage,
    micro_rows: int,
    micro_batches: int,
    kind: str = "cuda",
) -> DeviceMemory:
    """Bytes on one device of a pipeline stage; an update is `micro_batches` of `micro_rows`."""
    tokens = -(-micro_rows * job.sequence_length // layout.cp)  # of one micro-batch, here
    activations = _activations(job, layout, stage, micro_rows, micro_batches)
    parameters, optimizer = MASTER * stage.parameters, state_bytes(job, layout, stage)
    here = DeviceMemory(
        weights=parameters,
        gradients=parameters,
        optimizer=optimizer,
        gathered=_gathered(job, layout, stage, micro_batches, kind),
        activations=activations,
        logits=_logits(job, layout, tokens, kind) if stage.last else 0,
    )
    if kind == "cpu":  # there is no other memory: offloading only copies
        copied = 2 * parameters if job.offload in ("optimizer", "both") else 0
        return replace(here, optimizer=optimizer + copied)
    if parameters_away(layout):
        here = replace(here, weights=0, gradients=0, optimizer=0)
    if job.offload in ("optimizer", "both"):
        here = replace(here, optimizer=0)
    if job.offload in ("activations", "both"):
        here = replace(here, activations=_in_use(job, layout, stage, tokens, activations))
    return here


def host_bytes(
    job: Job, layout: Layout, stage: Stage, micro_rows: int, micro_batches: int, kind: str = "cuda"
) -> int:
    """Bytes of main memory that offloading takes for one GPU: what its own memory is spared, with
    weights and gradients of the optimizer's own where that alone is there."""
    if kind == "cpu":
        return 0
    states, total = 2 * MASTER * stage.parameters + state_bytes(job, layout, stage), 0
    if parameters_away(layout) or job.offload in ("optimizer", "both"):
        total += states
    if job.offload in ("activations", "both"):
        total += _activations(job, layout, stage, micro_rows, micro_batches)
    return total


def parameters_away(layout: Layout) -> bool:
    """Whether sharded weights, their gradients and moments lie in main memory."""
    return layout.config.offload and layout.size("fsdp") > 1


def _in_use(job: Job, layout: Layout, stage: Stage, tokens: int, most: int) -> int:
    """Activations on the device while the others are in main memory: those of a block that works
    and of one whose copies are on their way."""
    plain = replace(job, checkpointing="none")
    each = max((kept_values(plain, layout, layer) for layer in stage.layers), default=0.0)
    return min(most, int(2 * job.value_bytes * tokens * each))


def state_bytes(job: Job, layout: Layout, stage: Stage) -> int:
    """Bytes that the optimizer keeps on one device of a stage besides weights and gradients.

    Where matrices are shared out, each that must be updated whole has an owner, who keeps a copy
    and its gradient; the fullest owner counts.
    """
    if job.optimizer not in WHOLE_MATRICES or not stage.matrices:
        return optimizer_bytes(job.optimizer, stage.kept, momentum=job.momentum)
    others = {kind: count for kind, count in stage.kept.items() if kind != "matrix"}
    sizes, owners = [math.prod(shape) for shape in stage.matrices], layout.size("copy")
    owned = max(max(sizes), -(-sum(sizes) // owners)) if owners > 1 else sum(sizes)
    moments = MUON_MATRIX * sum(sizes)
    if job.optimizer == "galore":
        moments = sum(galore_bytes(shape, job.galore_rank) for shape in stage.matrices)
    copies = 2 * MASTER * owned if owners > 1 else 0
    return optimizer_bytes("adamw", others) + moments * owned // sum(sizes) + copies


def galore_bytes(shape: tuple[int, ...], rank: int) -> int:
    """Bytes of `GaLore`'s state of matrices (..., m, n): of r = min(rank, m, n) directions the
    projection (the shorter side, r), and two moments (r, the longer side)."""
    *stack, rows, columns = shape
    rank = min(rank, rows, columns)
    numbers = min(rows, columns) * rank + 2 * rank * max(rows, columns)
    return MASTER * math.prod(stack) * numbers


def optimizer_bytes(name: str, kept: dict[str, int], *, momentum: bool = True) -> int:
    """Bytes of optimizer state for numbers of parameters by kind (of galore's see `state_bytes`).

    momentum: sgd has it; without, there is nothing to keep.
    """
    each = STATE_BYTES[name] if momentum or name != "sgd" else 0
    state = {kind: each * count for kind, count in kept.items()}
    if name == "muon" and "matrix" in kept:
        state["matrix"] = MUON_MATRIX * kept["matrix"]
    return sum(state.values())


def _gathered(job: Job, layout: Layout, stage: Stage, micro_batches: int, kind: str) -> int:
    """Weights in the form in which they are multiplied.

    Copies in the compute format stay until the backward pass has used them. Sharded weights come
    besides: those outside of the blocks, and two blocks at a time (the next one arrives while one
    computes) or all of them if they are not dropped again; and whole gradients, of one block (the
    head's is counted with the loss), or of all while micro-batches are accumulated, where only the
    last one's are shared out.
    """
    blocks, value = stage.gathered - stage.outside, job.value_bytes
    copied = 0 if value == MASTER else stage.outside
    if layout.size("fsdp") == 1:
        copied += stage.largest_block if job.checkpointing == "full" else blocks
        return 0 if value == MASTER else value * copied
    each = gathered_bytes(job, kind)  # of a block's weights
    if each == MASTER and value != MASTER:
        copied += stage.largest_block if job.checkpointing == "full" else blocks
    in_use = min(blocks, 2 * stage.largest_block) if reshards(layout) else blocks
    whole = micro_batches > 1 and not choose_accumulation(layout, stage.gathered).sharded
    gradients = stage.gathered if whole else stage.largest_block
    return value * copied + MASTER * (stage.outside + gradients) + each * in_use


def gathered_bytes(job: Job, kind: str) -> int:
    """Bytes of a block's weight on its way to the other shards: GPUs send it in the compute
    format, unless the model has weights that are used in fp32."""
    config = job.model
    exact = config.experts is not None or config.attention_sinks or config.norm_offset
    if exact or config.position == "relative" or kind != "cuda":
        return MASTER
    return job.value_bytes


def reshards(layout: Layout) -> bool:
    """Whether gathered weights are dropped after a block's forward pass."""
    chosen = layout.config.reshard
    return chosen == "always" or (chosen == "auto" and layout.pp == 1)


def _activations(
    job: Job, layout: Layout, stage: Stage, micro_rows: int, micro_batches: int
) -> int:
    """Values kept for the backward pass, of all micro-batches that are on their way."""
    flying = in_flight(layout, stage.number, micro_batches)
    tokens = -(-micro_rows * job.sequence_length // layout.cp)  # of one micro-batch, here
    per_token = sum(kept_values(job, layout, layer) for layer in stage.layers)
    if job.checkpointing in ("selective", "full") and stage.layers:  # a block is computed again
        again = max(_kept(job.model, layout, layer) for layer in stage.layers)
        if job.checkpointing == "selective":  # its products are there
            again -= max(kept_values(job, layout, layer) for layer in stage.layers)
        per_token += again / flying
    ends = 2 * job.model.width * (stage.first + stage.last)
    keys = 0
    if layout.cp > 1 and layout.config.cp_method == "allgather" and job.checkpointing == "none":
        other = micro_rows * job.sequence_length - tokens
        keys = len(stage.layers) * 2 * job.model.key_heads * job.model.head_size * other
        keys //= min(layout.tp, job.model.key_heads)
    values = flying * (tokens * (per_token + ends) + keys)
    return int(job.value_bytes * values)


def kept_values(job: Job, layout: Layout, layer: int) -> float:
    """Values for each token that one layer keeps until its backward pass, on one device."""
    config, share = job.model, layout.tp if layout.config.sequence_parallel else 1
    inputs, whole = config.width / share, _kept(config, layout, layer)
    if job.checkpointing == "full":
        return inputs
    if job.checkpointing == "budget":
        return inputs + job.activation_budget * (whole - inputs)
    if job.checkpointing in ("none", "auto"):
        return whole
    # Selective: results of matrix products and of attention stay, what is cheap is done again.
    queries, keys = config.heads * config.head_size, config.key_heads * config.head_size
    hidden = config.hidden_size * (2 if config.gated else 1)
    products = (2 * queries + 2 * keys + hidden) / layout.tp + 2 * config.width / share
    return min(whole, products + inputs)


def _kept(config: ModelConfig, layout: Layout, layer: int) -> float:
    """Values that one layer keeps of each token without checkpointing, on one device.

    Norms see a part of the tokens with sequence parallelism, or all; the matrices' inputs are
    gathered; everything inside attention and feed-forward is shared out.
    """
    norms = (6 if config.norm_placement == "sandwich" else 4) * config.width
    inside = _layer_values(config, layer) - norms
    if layout.tp == 1:
        return norms + inside
    share = layout.tp if layout.config.sequence_parallel else 1
    inputs = 2 * config.width  # of the two groups of matrices that are cut by columns
    return (norms - inputs) / share + inputs + inside / layout.tp


def _layer_values(config: ModelConfig, layer: int) -> int:
    """Values for each token that layer number `layer` keeps (`training_memory` counts all)."""

    def up_to(layers: int) -> int:
        if layers == 0:
            return 2 * config.width
        return training_memory(config.replace(layers=layers), 1, 1, 0).activations

    return up_to(layer + 1) - up_to(layer)


def in_flight(layout: Layout, process: int, micro_batches: int) -> float:
    """Micro-batches whose activations a process of a pipeline holds at once, in whole stages: what
    went forward through it and has not come back, as its schedule has it."""
    if layout.pp == 1:
        return 1
    each = chunks(layout)
    actions = schedule(layout.config.schedule, layout.pp, each, micro_batches)[process]
    held = most = 0
    for action in actions:
        if action.kind == "forward":
            held += 1
        elif action.kind in ("backward", "weights"):
            held -= 1
        most = max(most, held)
    return most / each


def _logits(job: Job, layout: Layout, tokens: int, kind: str) -> int:
    """One chunk of logits in fp32 and in the compute format, and the gradients of the head and of
    its input, which the loss makes while it has the logits."""
    config, share = job.model, layout.tp if layout.config.loss_parallel else 1
    chunk = min(tokens, chunk_tokens(job, kind))
    logits = chunk * config.vocab_size * (MASTER + job.value_bytes)
    gradients = MASTER * config.vocab_size * config.width
    return (logits + gradients) // share + tokens * config.width * job.value_bytes


def chunk_tokens(job: Job, kind: str) -> int:
    """Tokens whose logits stand in memory at once."""
    usual = LOGIT_VALUES["cuda" if kind == "cuda" else "cpu"] // job.model.vocab_size
    return job.chunk_tokens or max(256, usual)
