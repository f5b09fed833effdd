"""Devices and plans: peaks, what fits, what helps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from langwright.base import UserError, machine
from langwright.model import flops_per_token, model_config
from langwright.parallel import ParallelConfig, World, layout
from langwright.plan import Job, Plan, device_named, device_names, make_plan, plan_text
from langwright.plan.devices import DEVICES
from langwright.plan.memory import LOGIT_VALUES
from langwright.plan.traffic import link_rate


def planned(
    preset: str, length: int, rows: int, device: str, world: int = 1, **more: object
) -> Plan:
    config = model_config({"preset": preset, "context_length": length})
    parallel = ParallelConfig.parse(more.pop("parallel", {}))
    job = Job(config, length, length * rows, tokens=10**9, parallel=parallel, **more)  # type: ignore[arg-type]
    return make_plan(job, device_named(device), world)


def test_peaks_are_those_of_dense_products() -> None:
    """A table with a peak half as high, or twice (sparse), makes every share wrong."""
    assert DEVICES["a100"].peaks["bf16"] == 312e12
    assert DEVICES["h100"].peaks["bf16"] == DEVICES["h200"].peaks["bf16"] == 989e12
    for device in DEVICES.values():
        half = device.peaks.get("bf16") or device.peaks["fp16"]
        assert device.peaks.get("fp8", 2 * half) == pytest.approx(2 * half, rel=0.05)
        assert device.peaks["fp32"] < half and device.link and device.network
        assert device.network <= device.link
    assert set(device_names()) == {"this", *DEVICES}


def test_device_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="unknown device") as caught:
        device_named("h10")
    assert "h100" in caught.value.render()
    with pytest.raises(UserError, match="does not multiply bf16"):
        planned("gpt2-124m", 1024, 8, "t4")


def test_this_machine_is_measured() -> None:
    device = device_named("this")
    assert device.peaks["fp32"] > 1e9 and device.memory > 1e8
    assert device.kind in ("cpu", "cuda", "mps")
    assert ("bf16" in device.peaks) == machine().bf16
    assert ("fp16" in device.peaks) == (device.kind != "cpu")
    slow = replace(device, peaks={"fp32": 1e11})
    with pytest.raises(UserError, match="has no fast fp16") as caught:
        slow.peak("fp16")
    assert "expected: fp32" in caught.value.render() and "--device" in str(caught.value.fix)


def test_too_few_devices_say_how_many_to_plan_with() -> None:
    this = replace(device_named("h100"), name="this")
    for parallel, world, fix in (
        ({"tp": 2, "pp": 2}, 1, "--world 8 --device h100"),
        ({"tp": 3}, 4, "--world 9 --device h100"),
        ({"tp": 2, "dp_shard": 2}, 3, "--world 4 --device h100"),
    ):
        config = model_config({"preset": "gpt2-124m"})
        job = Job(config, 1024, 2**19, parallel=ParallelConfig.parse(parallel))
        with pytest.raises(UserError, match="cannot be shared out") as caught:
            make_plan(job, this, world)
        assert str(caught.value.fix).startswith(fix)
    broken = Job(config, 1024, 2**19, parallel=ParallelConfig.parse({"dp_shard": 0}))
    with pytest.raises(UserError, match="at least 1"):
        make_plan(broken, this, 1)


def test_a_group_within_a_machine_has_the_fast_link() -> None:
    device = device_named("h100")
    where = layout(ParallelConfig.parse({"tp": 8}), World(size=32))
    assert link_rate(where, device, "tp") == device.link
    assert link_rate(where, device, "dp_shard") == device.network  # one of each machine
    flat = layout(ParallelConfig.parse({}), World(size=32))
    assert link_rate(flat, device, "fsdp") == min(device.link, 8 * device.network)
    assert link_rate(where, replace(device, per_node=4), "tp") == 4 * device.network


def test_known_speeds_are_met() -> None:
    """Published figures, give or take a third: GPT-2 124M on one A100 (142K tokens/s, compiled) and
    Llama 3 8B on H100s (6.7K to 8K tokens/s each, bf16, selective checkpointing)."""
    small = planned("gpt2-124m", 1024, 512, "a100", checkpointing="none")
    assert small.tokens_per_second == pytest.approx(142e3, rel=1 / 3)
    large = planned("llama-3-8b", 8192, 16, "h100", 8, checkpointing="selective", micro_rows=2)
    assert large.tokens_per_second / 8 == pytest.approx(7.3e3, rel=1 / 3)


def test_the_least_checkpointing_that_fits_is_chosen() -> None:
    kinds = []
    for device in ("b200", "h100", "a100-40gb"):
        plan = planned(
            "llama-3-8b", 8192, 64, device, 32, parallel={"tp": 2, "accumulate": "whole"}
        )
        assert plan.fits
        kinds.append(plan.job.checkpointing)
    order = ["none", "selective", "full"]
    assert [order.index(kind) for kind in kinds] == sorted(order.index(kind) for kind in kinds)
    assert kinds[0] != kinds[-1]


def test_what_does_not_fit_is_said_with_what_helps() -> None:
    plan = planned("llama-3-8b", 8192, 8, "h100")
    assert not plan.fits
    text = plan_text(plan)
    assert "DOES NOT FIT" in text and "more devices" in text
    assert planned("gpt2-124m", 1024, 64, "h100").fits


def test_the_parts_add_up() -> None:
    plan = planned("llama-3.2-1b", 4096, 64, "h100", 16, parallel={"tp": 2, "pp": 2})
    values = plan.to_json()
    memory = dict(values["memory"])
    assert memory.pop("total") == sum(memory.values())
    seconds = dict(values["step_seconds"])
    assert seconds.pop("total") == pytest.approx(sum(seconds.values()))
    flops = flops_per_token(plan.job.model, 4096) * plan.tokens_per_second
    assert plan.utilisation == pytest.approx(flops / (16 * 989e12))
    assert plan.seconds == pytest.approx(plan.steps * plan.time.total)
    assert plan.checkpoint_bytes == pytest.approx(12 * values["parameters"], rel=0.01)


def test_a_run_of_minutes_has_steps_by_its_speed() -> None:
    config = model_config({"preset": "gpt2-124m"})
    job = Job(config, 1024, 2**19, minutes=10)
    plan = make_plan(job, device_named("h100"), 1)
    assert plan.seconds == pytest.approx(600, rel=0.01)


def test_the_chunks_are_those_of_the_loss() -> None:
    import langwright.model.losses as losses

    for kind, values in LOGIT_VALUES.items():
        assert losses.default_chunk(2048, kind) == values // 2048
