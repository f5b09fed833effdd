"""How many micro-batches run at a time on a CPU: chosen by measuring."""

from __future__ import annotations

import torch

from langwright.plan import rules
from langwright.train.choices import Choices
from langwright.train.lanes import can_have_lanes
from langwright.train.probe import Probe

GAIN = 0.03  # rule of thumb: share of the time that the better way saves where both are compiled


def choose_lanes(wanted: int | None, choices: Choices, probe: Probe, rows: int | None) -> int:
    """Micro-batches at a time: on a CPU one for each core, where that is measured quicker.

    rows: of a micro-batch, if that was asked for.
    """
    updater, cores = probe.updater, wanted or torch.get_num_threads()
    impossible = _why_no_lanes(probe, cores)
    if wanted == 1 or impossible:
        return choices.decide("lanes", 1, "as asked" if wanted == 1 else impossible or "")
    count = min(cores, probe.batch_rows)
    most = rows or max(1, rules.LANE_TOKENS // probe.rows.sequence_length)
    micro_rows = min(updater.micro_rows, most, -(-probe.batch_rows // count))
    batch = probe.rows.batch(0, probe.batch_rows)
    if wanted is None:
        usual = probe.batch_seconds(batch)
        before, updater.micro_rows = updater.micro_rows, micro_rows
        updater.use_lanes(count)
        lanes = probe.batch_seconds(batch)
        if lanes > 0.95 * usual:
            updater.micro_rows = before
            updater.use_lanes(1)
            reason = f"{count} at a time take {lanes:.2f} s a batch, one after another {usual:.2f}"
            return choices.decide("lanes", 1, reason)
        reason = f"{lanes:.2f} s a batch instead of {usual:.2f}: each core has its own micro-batch"
    else:
        updater.use_lanes(count)
        reason = "as asked"
    updater.micro_rows = micro_rows
    choices.decide("micro_batch_rows", micro_rows, "one part of the batch for each lane")
    return choices.decide("lanes", count, reason)


def reconsider_lanes(
    wanted: int | None,
    choices: Choices,
    probe: Probe,
    alone: int,
    *,
    steps: int | None,
    seconds: float | None,
) -> None:
    """Compiled blocks wait less between their operations: with them one micro-batch after another
    may be quicker than several at a time. Tried where the run wins back what compiling for it
    costs.

    alone: rows of a micro-batch that has all cores.
    """
    updater = probe.updater
    if wanted is not None or updater.lanes is None or not choices["compile"]:
        return
    batch, count = probe.rows.batch(0, probe.batch_rows), updater.lanes.count
    several = probe.batch_seconds(batch)
    length = seconds if seconds is not None else (steps or 0) * several
    if length * GAIN < rules.COMPILE_SECONDS:
        return
    at_a_time, updater.micro_rows = updater.micro_rows, alone
    updater.use_lanes(1)
    updater.compile()
    one = probe.batch_seconds(batch)
    reason = (
        f"compiled, {count} at a time take {several:.2f} s a batch, one after another {one:.2f}"
    )
    if one < 0.98 * several:
        choices.decide("micro_batch_rows", alone, "it has all cores")
        choices.decide("lanes", 1, reason)
        return
    updater.micro_rows = at_a_time
    updater.use_lanes(count)
    updater.compile()
    choices.decide("lanes", count, reason)


def _why_no_lanes(probe: Probe, cores: int) -> str | None:
    """What forbids more than one lane, if anything."""
    if probe.updater.device.type != "cpu":
        return "one device"
    if probe.updater.form.size > 1:
        return "several processes"
    if not can_have_lanes(probe.updater.model):
        return "dropout draws its numbers in order"
    if cores == 1 or probe.batch_rows == 1:
        return "one core" if cores == 1 else "one row per batch"
    return None
