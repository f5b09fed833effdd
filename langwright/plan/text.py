"""A plan in words, for the terminal."""

from __future__ import annotations

from dataclasses import asdict

from langwright.base import human_bytes, human_count, human_seconds
from langwright.formats import opened_by
from langwright.model import ModelConfig, flops_per_token, parameter_count
from langwright.plan.dry_run import DryRun
from langwright.plan.plan import Plan
from langwright.plan.speed import bubble_share

MEMORY_NAMES = {
    "weights": "weights, fp32",
    "gradients": "gradients, fp32",
    "optimizer": "optimizer state",
    "gathered": "gathered and cast",
    "activations": "activations",
    "logits": "head and loss",
}
TIME_NAMES = {
    "products": "matrix products",
    "memory": "norms and the like",
    "optimizer": "optimizer",
    "communication": "waiting for the network",
    "bubble": "pipeline waiting",
}


def plan_text(plan: Plan) -> str:
    """What a run will need and take, in four tables."""
    parts = [_run(plan), _memory(plan), _traffic(plan), _time(plan), _verdict(plan)]
    return "\n\n".join(part for part in parts if part)


def dry_run_text(found: DryRun) -> str:
    """What was counted beside what was calculated for the same update."""
    lines = {
        "keeps": f"{found.parameters:,} parameters, {human_bytes(found.resting_bytes)} with "
        "gradients",
        "most at a moment": f"{human_bytes(found.peak_bytes)} without optimizer "
        f"({human_bytes(found.planned_peak)} by arithmetic)",
        "sends": f"{human_bytes(int(found.sent_bytes))} "
        f"({human_bytes(int(found.planned_sent))} by arithmetic)",
        "collectives": ", ".join(f"{n} {kind}" for kind, n in found.collectives.items()) or "none",
    }
    title = (
        f"Dry run of one rank of pipeline stage {found.stage}, {found.micro_batches} micro-batches"
    )
    return _table(f"{title}, by the CPU's rules", lines)


def _run(plan: Plan) -> str:
    job, counts = plan.job, parameter_count(plan.job.model)
    active = f", {human_count(counts.active)} for one token" if counts.resting else ""
    rows = plan.micro_rows * plan.job.sequence_length
    lines = {
        "model": f"{human_count(counts.total)} parameters{active}, "
        f"{job.model.layers} layers, width {job.model.width}",
        "opens in": _programs(job.model),
        "devices": f"{plan.world} x {plan.device.description}: {plan.layout.describe()}",
        "batch": f"{job.step_tokens:,} tokens = {plan.layout.data_size} x {plan.micro_batches} "
        f"micro-batches of {plan.micro_rows} rows ({rows:,} tokens)",
        "numbers": f"{job.precision}, checkpointing {job.checkpointing}, "
        f"{'compiled' if job.compiled is True else 'not compiled'}, {job.optimizer}",
    }
    return _table("Plan", lines)


def _programs(config: ModelConfig) -> str:
    found = opened_by(config)
    others = ", ".join(f"{program} ({name})" for program, name in found.items())
    return f"Langwright, {others}" if found else "Langwright alone"


def _memory(plan: Plan) -> str:
    values = asdict(plan.memory)
    lines = {name: human_bytes(values[key]) for key, name in MEMORY_NAMES.items() if values[key]}
    total, room = plan.memory.total, plan.room
    lines["all"] = (
        f"{human_bytes(total)} of {human_bytes(int(room))} usable "
        f"({100 * total / room:.0f} %{'' if plan.fits else ': DOES NOT FIT'})"
    )
    if plan.host_bytes:
        lines["main memory besides"] = f"{human_bytes(plan.host_bytes)} for each device"
    return _table("Memory of the fullest device", lines)


def _traffic(plan: Plan) -> str:
    lines = {}
    for row in plan.traffic:
        time = f", {_short(row.seconds)}" if row.rate else ", link not known"
        how = "behind the computation" if row.hidden else "waited for"
        lines[row.name] = f"{human_bytes(int(row.bytes))} among {row.peers}{time}, {how}"
    if not lines:
        return ""
    return _table("Sent by one device in one update", lines)


def _time(plan: Plan) -> str:
    values = asdict(plan.time)
    lines = {name: _short(values[key]) for key, name in TIME_NAMES.items() if values[key]}
    if plan.layout.pp > 1:
        share = bubble_share(plan.layout, plan.micro_batches)
        lines["pipeline waiting"] += f" ({100 * share:.0f} % of the work)"
    lines["all"] = f"{_short(plan.time.total)}: {plan.tokens_per_second:,.0f} tokens/s"
    lines["share of peak"] = (
        f"{100 * plan.utilisation:.0f} % expected (MFU, by 6 N + 12 L d T = "
        f"{flops_per_token(plan.job.model, plan.job.sequence_length) / 1e6:,.1f} MFLOP per token)"
    )
    return _table("Time of one update, give or take a quarter", lines)


def _verdict(plan: Plan) -> str:
    lines = {}
    if plan.steps is not None and plan.tokens is not None and plan.flops is not None:
        lines["length"] = f"{plan.steps:,} updates, {human_count(plan.tokens)} tokens"
        lines["compute"] = f"{plan.flops:.2e} FLOPs"
        counts = parameter_count(plan.job.model)
        lines["tokens per parameter"] = f"{plan.tokens / counts.active:.1f}"
        if plan.seconds is not None:
            hours = plan.seconds * plan.world / 3600
            lines["time"] = f"{human_seconds(plan.seconds)}, {hours:,.1f} device hours"
    lines["checkpoint"] = human_bytes(plan.checkpoint_bytes)
    text = _table("The whole run", lines)
    if not plan.fits:
        text += "\n\nIt does not fit. What helps: " + "; ".join(_remedies(plan)) + "."
    return text


def _remedies(plan: Plan) -> list[str]:
    """What would make it smaller, the cheapest first."""
    tips = []
    states = plan.memory.states / plan.room
    if plan.memory.activations > 0.2 * plan.memory.total:
        if plan.micro_rows > 1:
            tips.append("fewer rows at once (pretrain.micro_batch_rows)")
        if plan.job.checkpointing != "full":
            tips.append("activation checkpointing")
        elif plan.layout.cp == 1:
            tips.append("context parallel (cp)")
    if states > 0.5:
        if plan.layout.sizes["dp_replicate"] > 1:
            tips.append("sharding instead of replicas (dp_shard)")
        tips.append("more devices to shard over, or tensor parallel (tp)")
    return tips or ["more devices, or a smaller model"]


def _short(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if seconds < 1 else human_seconds(seconds)


def _table(title: str, rows: dict[str, str]) -> str:
    width = max(24, *(len(name) + 2 for name in rows))
    return title + "\n" + "\n".join(f"  {name:<{width}}{value}" for name, value in rows.items())
