"""What is chosen over processes: alike on all, and as the plan says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from parallel_ranks import run_ranks
from parallel_small import UnevenRows, small_config

from langwright.base import machine
from langwright.model import ModelConfig, build_model
from langwright.optim import OptimConfig, build_optimizer
from langwright.parallel import Alone, layout, parallelise, world
from langwright.plan import USABLE, Job, Plan, device_named, make_plan, rules
from langwright.train import (
    TrainConfig,
    Updater,
    checkpointing_choice,
    choosing,
    language_model_loss,
    setup,
    training_job,
)
from langwright.train.checkpointing_choice import choose_pass_together
from langwright.train.choices import Choices
from langwright.train.probe import Probe

LENGTH, ROWS = 128, 32
LAYOUTS: dict[str, dict[str, Any]] = {
    "ddp": {"dp_replicate": 2, "dp_shard": 1},
    "fsdp": {"dp_shard": 2},
    "tp": {"tp": 2},
    "cp": {"cp": 2},
    "pp": {"pp": 2},
}
SOME = [
    name if name in ("fsdp", "pp") else pytest.param(name, marks=pytest.mark.slow)
    for name in LAYOUTS
]


def settings(parallel: dict[str, Any], **changes: Any) -> TrainConfig:
    table = {"batch_tokens": ROWS * LENGTH, "precision": "fp32", "device": "cpu", "steps": 4}
    return TrainConfig.parse({**table, "parallel": parallel, **changes})


def shape() -> ModelConfig:
    """Wide enough for activations to weigh more than what else there is."""
    return small_config(width=64, hidden_width=128, layers=4, context_length=LENGTH)


def probed(config: TrainConfig) -> Probe:
    """A probe of a model over the processes of the config."""
    form: Alone = parallelise(shape(), 3, layout(config.parallel, world("cpu")))
    rows, model = UnevenRows(LENGTH), form.model
    settings = {"device": torch.device("cpu"), "micro_rows": 1, "clip": 1.0, "seed": 0}
    optimizer = form.optimizer(OptimConfig.parse({}))
    updater = Updater(model, optimizer, language_model_loss, form=form, **settings)
    return Probe(updater, rows, ROWS)


def job_of(config: TrainConfig) -> Job:
    return training_job(config, shape(), LENGTH, "fp32")


def chosen(config: TrainConfig, cases: list[Any]) -> list[tuple[str, int, str]]:
    """For each (kind, memory, tokens that are enough) what is chosen: (checkpointing, rows at a
    time, the reason for these). The memory is that of each process (GPU) or of all (CPU)."""
    probe = probed(config)
    updater, found = probe.updater, []
    for kind, memory, enough in cases:
        choices = Choices("key")
        choices.decide("device", kind, "test")
        rules.ENOUGH_TOKENS = enough
        if kind == "cpu":
            facts = replace(machine(), memory_bytes=memory)
            checkpointing_choice.machine = lambda facts=facts: facts
            choosing._choose_pass(config, choices, probe, "fp32")
        else:
            weights = sum(p.numel() * 4 for p in updater.optimizer.parameters)
            room = USABLE * memory - weights
            if config.parallel.dp_replicate > 1:
                room -= weights  # DDP's buckets
            room *= 1 if world().rank or config.parallel.pp > 1 else 2  # the least room decides
            checkpointing_choice.device_room = lambda device, room=room: room
            choose_pass_together(job_of(config), choices, probe)
        rows = updater.form.rows_at_once(probe.own_rows, updater.micro_rows)
        block = next(iter(updater.model.blocks))
        assert ("forward" in block.__dict__) == (choices["checkpointing"] != "none")
        reason = choices.values["checkpointing" if kind == "cpu" else "micro_batch_rows"]["reason"]
        found.append((choices["checkpointing"], rows, reason))
    return found


def planned(config: TrainConfig, memory: float, kind: str, processes: int = 2) -> Plan:
    device = replace(device_named("h100"), memory=memory, kind=kind)
    return make_plan(job_of(config), device, processes)


def memory_for(config: TrainConfig, method: str, rows: int, processes: int = 2) -> float:
    """Memory of a GPU in which one and a half times what is kept of these rows fits, but not of
    twice as many: measured and calculated activations differ by less."""
    asked = settings(config.parallel.to_json(), checkpointing=method, micro_batch_rows=rows)
    found = planned(asked, 1e12, "cuda", processes).memory
    return (found.total + 0.45 * found.activations) / USABLE


@pytest.mark.parametrize("name", SOME)
def test_several_gpus_choose_what_the_plan_says(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """By an estimate: no pass is larger than three short rows."""
    config = settings(LAYOUTS[name])
    wanted, cases = [("none", 8), ("none", 2), ("full", 4)], []
    for method, rows in wanted:
        enough = rows * LENGTH // config.parallel.cp
        monkeypatch.setattr(rules, "ENOUGH_TOKENS", enough)
        memory = memory_for(config, method, rows)
        plan = planned(config, memory, "cuda")
        assert (plan.job.checkpointing, plan.micro_rows) == (method, rows)
        cases.append(("cuda", memory, enough))
    results = run_ranks(2, chosen, config, cases)
    assert results[0] == results[1]
    for (method, rows), (found, at_once, reason) in zip(wanted, results[0], strict=True):
        assert (found, at_once) == (method, rows), reason
        assert "estimated to fit" in reason and f"{method} {rows} rows" in reason


@pytest.mark.parametrize("name", SOME)
def test_several_cpus_choose_what_the_plan_says(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The memory is that of both, and half of it may be filled."""
    config = settings(LAYOUTS[name])
    monkeypatch.setattr(rules, "CPU_TOKENS", 8 * LENGTH)
    each = {
        method: planned(settings(LAYOUTS[name], checkpointing=method), 1e12, "cpu")
        for method in rules.METHODS
    }
    needed = {method: plan.memory.activations for method, plan in each.items()}
    room = {
        "none": 1.5 * needed["none"],
        "selective": (needed["none"] * needed["selective"]) ** 0.5,
        "full": needed["full"],
    }
    cases = []
    for method in rules.METHODS:
        plan = planned(config, 4 * room[method], "cpu")
        assert plan.job.checkpointing == method
        cases.append(("cpu", 4 * room[method], 1))
    results = run_ranks(2, chosen, config, cases)
    assert results[0] == results[1]
    for method, (found, rows, reason) in zip(rules.METHODS, results[0], strict=True):
        assert (found, rows) == (method, plan.micro_rows), reason


def alone(config: TrainConfig, device: str = "cpu") -> tuple[Probe, Choices]:
    model = build_model(shape(), 3)
    updater = Updater(
        model,
        build_optimizer(model, config.optim),
        language_model_loss,
        device=torch.device("cpu"),
        micro_rows=1,
        clip=1.0,
        seed=0,
    )
    choices = Choices("key")
    choices.decide("device", device, "test")
    return Probe(updater, UnevenRows(LENGTH), ROWS), choices


@pytest.mark.parametrize("memory", [1e12, 4e6, 1e4])
@pytest.mark.parametrize("rows", [None, 4])
def test_one_cpu_chooses_what_the_plan_says(
    monkeypatch: pytest.MonkeyPatch, memory: float, rows: int | None
) -> None:
    monkeypatch.setattr(rules, "CPU_TOKENS", 8 * LENGTH)
    config = settings({}, micro_batch_rows=rows, lanes=1)
    facts = replace(machine(), memory_bytes=memory)
    monkeypatch.setattr(checkpointing_choice, "machine", lambda: facts)
    probe, choices = alone(config)
    choosing._choose_pass(config, choices, probe, "fp32")
    plan = planned(config, memory, "cpu", 1)
    assert choices["checkpointing"] == plan.job.checkpointing
    assert choices["micro_batch_rows"] == plan.micro_rows == (rows or 8)


@pytest.mark.parametrize("rows", [32, 8, 4])
def test_one_gpu_chooses_what_the_plan_says(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """It tries; what fits is here as the plan has it."""
    config = settings({})
    monkeypatch.setattr(rules, "ENOUGH_TOKENS", 4 * LENGTH)
    memory = memory_for(config, "none", rows, 1)
    plan = planned(config, memory, "cuda", 1)
    probe, choices = alone(config, "cuda")
    probe.updater.device = torch.device("meta")  # not the CPU

    def fits(size: int) -> bool:
        asked = settings({}, checkpointing="none", micro_batch_rows=size)
        return planned(asked, memory, "cuda", 1).fits

    monkeypatch.setattr(probe, "fits", fits)
    choosing._choose_pass(config, choices, probe, "fp32")
    assert (choices["checkpointing"], choices["micro_batch_rows"]) == ("none", rows)
    assert (plan.job.checkpointing, plan.micro_rows) == ("none", rows)


@pytest.mark.parametrize(
    ("layout_", "kind", "length", "expected"),
    [
        ({}, "cuda", {"steps": 10**7}, True),
        ({}, "cuda", {"steps": 1}, False),
        ({}, "cuda", {"minutes": 1.0}, False),
        ({}, "cuda", {"minutes": 60.0}, True),
        ({}, "cpu", {"minutes": 60.0}, True),
        ({}, "mps", {"minutes": 60.0}, False),
        ({"dp_shard": 2}, "cuda", {"minutes": 60.0}, True),
        ({"pp": 2}, "cuda", {"minutes": 60.0}, False),
    ],
)
def test_the_plan_compiles_where_a_run_would(
    layout_: dict[str, int], kind: str, length: dict[str, Any], expected: bool
) -> None:
    config = settings(layout_, compile="auto", **{"steps": None, **length})
    assert planned(config, 1e12, kind, 2 if layout_ else 1).job.compiled is expected
    asked = config.replace(compile=not expected)
    assert planned(asked, 1e12, kind, 2 if layout_ else 1).job.compiled is not expected


@pytest.mark.parametrize("name", ["adamw", "muon", "galore"])
def test_a_sharded_optimizer_is_as_large_as_planned(name: str) -> None:
    """Whole matrices have owners, who keep copies of them and of their gradients."""
    config = settings({"dp_shard": 2}, optimizer={"name": name, "galore_rank": 8})
    plan = planned(config, 1e12, "cuda")
    found = run_ranks(2, _state_bytes, config)
    assert plan.memory.optimizer == pytest.approx(max(found), rel=0.02)


def _state_bytes(config: TrainConfig) -> int:
    form = parallelise(shape(), 3, layout(config.parallel, world("cpu")))
    optimizer: Any = form.optimizer(config.optim)
    batch = UnevenRows(LENGTH).batch(*form.own_rows(0, 4))
    form.gradients(language_model_loss, [batch], 1.0, lambda index: None)
    optimizer.step()
    states = optimizer.state_dict()["tensors"].values()
    owned = sum(p.nbytes + p.grad.nbytes for p in optimizer.owned.values())
    return owned + sum(t.nbytes for t in states if t.numel() > 1)


def _found_by(owner: int | None) -> tuple[str, bool]:
    """What a process goes by, and as what, where only `owner` finds earlier choices."""
    config = settings({"dp_shard": 2})
    form = parallelise(shape(), 3, layout(config.parallel, world("cpu")))
    own = Choices("key", values={"device": {"value": f"of {owner}", "reason": ""}})
    fresh = Choices("key", values={"device": {"value": "cpu", "reason": ""}})
    has = owner == world().rank
    chosen, old = setup._of_the_first(own if has else fresh, own if has else None, form, config)
    return chosen["device"], old is chosen


@pytest.mark.parametrize(
    ("owner", "found"), [(None, ("cpu", False)), (0, ("of 0", True)), (1, ("cpu", False))]
)
def test_the_first_process_s_choices_are_everybody_s(owner, found) -> None:
    """Machines without a common folder: only the first process writes choices.json."""
    assert run_ranks(2, _found_by, owner) == [found, found]
