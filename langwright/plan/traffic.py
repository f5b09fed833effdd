"""Bytes that one device sends in one update, by cause, and how long they take.

Rings: joining parts over n devices sends (n-1)/n of the whole, adding up and sharing out the same,
adding up for all twice that (Thakur et al. 2005; Rajbhandari et al. 2019, section 7).
"""

from __future__ import annotations

from dataclasses import dataclass

from langwright.parallel import Layout, choose_accumulation
from langwright.plan.devices import Device
from langwright.plan.job import Job
from langwright.plan.memory import MASTER, gathered_bytes, reshards
from langwright.plan.shares import Stage, chunks


@dataclass(frozen=True)
class Traffic:
    """One kind of communication during one update, of one device."""

    name: str
    span: str  # which processes talk: an edge or span of the layout
    peers: int  # how many they are
    bytes: float  # sent
    rate: float | None  # bytes/s; None: the link is not known
    hidden: bool  # runs beside the computation, as far as that lasts

    @property
    def seconds(self) -> float:
        """Time on the wire; 0 where the link is not known."""
        return self.bytes / self.rate if self.rate else 0.0


def all_traffic(
    job: Job, layout: Layout, device: Device, stage: Stage, micro_rows: int, micro_batches: int
) -> list[Traffic]:
    """Everything that one device of a pipeline stage sends in one update of `micro_batches`."""
    rows = [
        *_data(job, layout, stage, micro_batches, device.kind),
        *_tensor(job, layout, stage, micro_rows, micro_batches),
        *_context(job, layout, stage, micro_rows, micro_batches),
        *_pipeline(job, layout, stage, micro_rows, micro_batches),
        *_experts(job, layout, stage, micro_rows, micro_batches),
    ]
    return [
        Traffic(name, span, peers, sent, link_rate(layout, device, span), hidden)
        for name, span, peers, sent, hidden in rows
        if peers > 1 and sent > 0
    ]


def link_rate(layout: Layout, device: Device, span: str) -> float | None:
    """Bytes/s of a device to its peers along a span.

    Within a machine that of the link. Between machines every device has a network card, and the
    members of a group on one machine share out the crossing among their cards.
    """
    if device.link is None or device.network is None:
        return None
    machines = [rank // device.per_node for rank in layout.groups_of(_edges(span))[0]]
    together = machines.count(machines[0])
    if together == len(machines):
        return device.link
    return min(device.link, device.network * together)


def _edges(span: str) -> str:
    return "fsdp" if span == "ep" else span


Row = tuple[str, str, int, float, bool]


def _data(job: Job, layout: Layout, stage: Stage, micro_batches: int, kind: str) -> list[Row]:
    """FSDP gathers weights for each micro-batch, the blocks' twice if they are dropped in between
    (a pipeline that does not drop them gathers once for all), and shares out gradients once, or for
    each micro-batch; copies of the model add gradients up once."""
    rows: list[Row] = []
    sharers, copies = layout.size("fsdp"), layout.sizes["dp_replicate"]
    same = layout.size("expert_shard")  # processes that hold the same experts
    reduce = 2 if layout.config.reduce == "bf16" else MASTER
    others = stage.gathered - stage.experts

    def ring(values: int, of_experts: int) -> float:
        return (sharers - 1) / sharers * values + (same - 1) / same * of_experts

    if sharers > 1:
        stay = layout.pp > 1 and layout.config.reshard != "always"
        blocks = ring(others - stage.outside, stage.experts) * (2 if reshards(layout) else 1)
        once = MASTER * ring(stage.outside, 0) + gathered_bytes(job, kind) * blocks
        gathered = (1 if stay else micro_batches) * once
        rows.append(("gather weights", "fsdp", sharers, gathered, True))
        times = micro_batches if choose_accumulation(layout, stage.gathered).sharded else 1
        shared = times * reduce * ring(others, stage.experts)
        rows.append(("reduce gradients", "fsdp", sharers, shared, True))
    whole = 2 * (copies - 1) / copies * (others / sharers + stage.experts / same)
    rows.append(("average gradients", "dp_replicate", copies, whole * reduce, True))
    return rows


def _tensor(
    job: Job, layout: Layout, stage: Stage, micro_rows: int, micro_batches: int
) -> list[Row]:
    """Twice in each block tokens are joined before the matrices and added up after them, forward
    and backward: eight times a ring over the activations. The embedding adds up for all, in fp32,
    and joins the gradient; the head joins its input once and shares out that one's gradient."""
    tokens = micro_rows * job.sequence_length / layout.cp
    ring = (layout.tp - 1) / layout.tp * tokens * job.model.width
    again = 2 if job.checkpointing == "full" else 0  # the forward pass is done twice
    sent = (8 + 2 * again) * len(stage.layers) * ring * job.value_bytes
    if layout.config.loss_parallel:
        join = job.value_bytes * layout.config.sequence_parallel  # else the gradient is whole
        sent += ring * (stage.first * (2 * MASTER + join) + stage.last * 2 * job.value_bytes)
    return [("tensor parallel", "tp", layout.tp, sent * micro_batches, False)]


def _context(
    job: Job, layout: Layout, stage: Stage, micro_rows: int, micro_batches: int
) -> list[Row]:
    """Keys and values are joined over all tokens and their gradients shared out again; or tokens
    and heads change places before and after attention (Ulysses, arXiv:2309.14509)."""
    config, cp = job.model, layout.cp
    tokens = micro_rows * job.sequence_length
    keys = 2 * config.key_heads * config.head_size / min(layout.tp, config.key_heads)
    if layout.config.cp_method == "ulysses":
        queries = 2 * config.heads * config.head_size / layout.tp
        values = (keys + queries) * tokens / cp  # the own tokens of q, k, v and the result
    else:
        values = keys * tokens
    again = 1 if job.checkpointing == "full" else 0
    sent = (2 + again) * (cp - 1) / cp * values * job.value_bytes * len(stage.layers)
    return [("context parallel", "cp", cp, sent * micro_batches, False)]


def _pipeline(
    job: Job, layout: Layout, stage: Stage, micro_rows: int, micro_batches: int
) -> list[Row]:
    """Activations to the next stage, their gradients to the one before; with sequence parallel
    each tensor-parallel rank has its part of the tokens."""
    tokens = micro_rows * job.sequence_length / layout.cp
    if layout.config.sequence_parallel:
        tokens /= layout.tp
    borders = 2 * chunks(layout) - stage.first - stage.last
    sent = borders * tokens * job.model.width * job.value_bytes * micro_batches
    rows: list[Row] = [("pipeline", "pp", layout.pp, sent, True)]
    if job.model.tied and (stage.first or stage.last) and layout.pp > 1:  # both have the matrix
        both = MASTER * stage.whole["tokens"] / layout.size("fsdp")
        rows.append(("tied head's gradient", "pp", 2, both, False))
    return rows


def _experts(
    job: Job, layout: Layout, stage: Stage, micro_rows: int, micro_batches: int
) -> list[Row]:
    """Each token goes to its experts and back, forward and backward."""
    config, ep = job.model, layout.config.ep
    layers = sum(config.has_experts(layer) for layer in stage.layers)
    if config.experts is None or ep == 1:
        return []
    tokens = micro_rows * job.sequence_length / layout.cp
    again = 2 if job.checkpointing == "full" else 0
    each = config.experts.chosen * config.width * job.value_bytes * (ep - 1) / ep
    sent = (4 + again) * layers * tokens * each
    return [("experts", "ep", ep, sent * micro_batches, False)]
