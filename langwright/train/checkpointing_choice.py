"""Which activations are kept and how many rows go through at a time: chosen by the memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch

from langwright.base import human_bytes, machine
from langwright.plan import (
    USABLE,
    Job,
    activations_of,
    methods_of,
    rules,
    settle,
    sizes_of,
    stages,
    still_needed,
)
from langwright.train.activation_checkpointing import Method, checkpoint_activations
from langwright.train.choices import Choices
from langwright.train.compiling import blocks_of
from langwright.train.probe import Probe


def choose_checkpointing(
    wanted: Method | Literal["auto"],
    budget: float,
    choices: Choices,
    probe: Probe,
    *,
    compiled: bool,
    asked: int | None = None,
    lanes: int | None = None,
    job: Job | None = None,
) -> str:
    """Which activations to compute again; leaves the model in that state.

    By itself a run keeps them all where that fits. On a CPU what is kept is measured on a short
    row. On a GPU each method is tried with the most rows that fit: the quickest per token wins.

    Args:
        asked: rows of a micro-batch, if somebody said.
        lanes: micro-batches at a time, if somebody said.
        job: the run as the plan sees it; needed for a pipeline.
    """
    updater = probe.updater
    if wanted != "auto":
        checkpoint_activations(updater.model, wanted, budget, compiled=compiled)
        share = f"{100 * budget:g} % of them stay" if wanted == "budget" else "as asked"
        return choices.decide("checkpointing", wanted, share)
    if not blocks_of(updater.model):
        return choices.decide("checkpointing", "none", "no blocks")
    if updater.device.type == "cpu":
        return _checkpointing_by_memory(choices, probe, asked, lanes, job)
    return _checkpointing_by_speed(choices, probe)


def _checkpointing_by_memory(
    choices: Choices, probe: Probe, asked: int | None, lanes: int | None, job: Job | None
) -> str:
    """The first method whose activations of one pass fit into half of the memory, which processes
    of one machine share."""
    form, model = probe.updater.form, probe.updater.model
    place = form.layout
    at_a_time = (lanes or torch.get_num_threads()) if place is None else 1
    tokens = rules.cpu_tokens(probe.own_rows, probe.rows.sequence_length, asked, at_a_time)
    sharers = 1 if place is None else place.world.local_size
    room = min(form.gather(rules.CPU_SHARE * machine().memory_bytes / sharers))
    figures: list[str] = []
    kept: dict[str, float] = {}

    def needed(method: rules.Method) -> float:
        checkpoint_activations(model, method)
        if place is not None and place.pp > 1:
            assert job is not None
            at_once = tokens // probe.rows.sequence_length
            one, whole = replace(job, checkpointing=method), stages(job.model, place)
            found = float(activations_of(one, place, whole, probe.own_rows, at_once))
        else:
            here = tokens if place is None else tokens / place.cp
            kept[method] = probe.activation_bytes(method)
            found = max(form.gather(here * _with_one_again(kept, method, len(blocks_of(model)))))
        figures.append(f"{method} {human_bytes(found)}")
        return found

    method = rules.cpu_method(needed, room)
    reason = f"activations of {tokens:,} tokens: {', '.join(figures)}; room: {human_bytes(room)}"
    return choices.decide("checkpointing", method, reason)


def _checkpointing_by_speed(choices: Choices, probe: Probe) -> str:
    """On a device with memory of its own: none if enough rows fit, else what is quickest."""
    length, model = probe.rows.sequence_length, probe.updater.model
    sizes = rules.device_sizes(probe.batch_rows, length)
    enough = rules.enough_rows(sizes[0], length)
    rates: dict[Method, float] = {}
    figures = []
    for method in rules.METHODS:
        checkpoint_activations(model, method)
        rows = rules.most_that_fit(sizes, probe.fits)
        if method == "none" and rows >= enough:
            reason = f"{rows} rows of {length} fit, enough to fill the device"
            return choices.decide("checkpointing", "none", reason)
        if rows:
            rates[method] = rows * length / probe.micro_seconds(rows)
            figures.append(f"{method} {rates[method]:,.0f} tokens/s with {rows} rows")
    best: Method = max(rates, key=lambda method: rates[method], default="full")
    checkpoint_activations(model, best)
    return choices.decide("checkpointing", best, "; ".join(figures) or "not even one row fits")


def choose_pass_together(
    job: Job, choices: Choices, probe: Probe, *, compiled: bool = False
) -> None:
    """Checkpointing and rows of a pass on several GPUs, by an estimate; leaves the model so.

    Nothing is tried out: a process whose memory ran out would leave the others waiting for it. A
    short pass tells what activations take, arithmetic what gradients, moments, gathered weights and
    the loss will; the process with the least room decides for all. In a pipeline, and where
    activations are offloaded, all is arithmetic.

    Args:
        job: the run as the plan sees it.
        probe: of this process; all call this together.
        compiled: the blocks will be compiled.
    """
    updater, form = probe.updater, probe.updater.form
    place = form.layout
    assert place is not None
    rows, own = probe.own_rows, stages(job.model, place)[place.rank("pp")]
    measured = place.pp == 1 and job.offload in ("none", "optimizer")
    kept: dict[str, float] = {}
    for method in dict.fromkeys(("none", *(one.checkpointing for one in methods_of(job)))):
        assert method != "auto"
        checkpoint_activations(updater.model, method, job.activation_budget, compiled=compiled)
        if measured:
            kept[method] = probe.activation_bytes(method)
    room = device_room(updater.device)
    if place.size("fsdp") == 1 and place.size("dp_replicate") > 1 and place.pp == 1:
        room += sum(p.nbytes for p in updater.optimizer.parameters)  # DDP's buckets are there
    sizes, figures = sizes_of(job, place, rows), []
    fitting: dict[str, int] = {}
    for one in methods_of(job):
        known = None
        if measured:
            known = _with_one_again(kept, one.checkpointing, len(blocks_of(updater.model)))
        needed = {size: still_needed(one, place, own, rows, size, known) for size in sizes}
        here = next((size for size, found in needed.items() if found <= room), 0)
        fitting[one.checkpointing] = min(form.gather(here))
        figures.append(f"{one.checkpointing} {fitting[one.checkpointing]} rows")
    chosen, micro_rows = settle(job, place, sizes, fitting)
    assert chosen.checkpointing != "auto"
    checkpoint_activations(
        updater.model, chosen.checkpointing, job.activation_budget, compiled=compiled
    )
    least = human_bytes(int(min(form.gather(room))))
    by = f"estimated to fit into {least} besides the weights: {', '.join(figures)}"
    asked = job.checkpointing != "auto"
    choices.decide("checkpointing", chosen.checkpointing, "as asked" if asked else by)
    updater.micro_rows = choices.decide(
        "micro_batch_rows", micro_rows, by if job.micro_rows is None else "as asked"
    )


def _with_one_again(kept: dict[str, float], method: str, blocks: int) -> float:
    """Bytes for each token with a method: besides what it keeps, one block is computed again in the
    backward pass, and is there as without it.

    kept: what each method keeps, measured, "none" among them.
    """
    return kept[method] + (kept["none"] - kept[method]) / max(1, blocks)


def device_room(device: torch.device) -> float:
    """Bytes of a GPU that are free, but for the share that is never filled."""
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    return free - (1.0 - USABLE) * total
