"""The arithmetic against the real distributed model, its collectives and its optimizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from langwright.base import UserError
from langwright.model import build_model, model_config
from langwright.optim import OptimConfig, build_optimizer
from langwright.parallel import ParallelConfig, World, layout
from langwright.plan import Job, Plan, device_named, dry_run, make_plan
from langwright.plan.memory import optimizer_bytes
from langwright.plan.shares import stages

LENGTH, ROWS = 64, 2
CONFIG = model_config(
    {"vocab_size": 512, "width": 64, "layers": 4, "heads": 4, "context_length": 64, "tied": False}
)


def planned(
    parallel: dict[str, Any], world: int, micro_batches: int, precision: str = "fp32"
) -> Plan:
    config = ParallelConfig.parse(parallel)
    data = layout(config, World(size=world)).data_size
    job = Job(
        CONFIG,
        LENGTH,
        ROWS * LENGTH * micro_batches * data,
        parallel=config,
        precision=precision,
        micro_rows=ROWS,
        chunk_tokens=32,
    )
    return make_plan(job, device_named("h100"), world)


LAYOUTS: list[tuple[dict[str, Any], int, int, float]] = [
    # parallel section, devices, micro-batches, how far the bytes sent may be off
    ({}, 1, 2, 0.0),
    ({"dp_shard": 4}, 4, 1, 0.0),
    ({"dp_shard": 4}, 4, 2, 0.0),
    ({"dp_shard": 4, "reshard": "never"}, 4, 2, 0.0),
    ({"dp_shard": 2, "dp_replicate": 2}, 4, 1, 0.0),
    ({"dp_shard": 1, "tp": 2}, 2, 1, 0.08),
    ({"dp_shard": 2, "tp": 4}, 8, 1, 0.08),
    ({"dp_shard": 1, "tp": 4, "sequence_parallel": False}, 4, 1, 0.08),
    ({"dp_shard": 2, "cp": 4}, 8, 1, 0.01),
    ({"dp_shard": 1, "cp": 4, "cp_method": "ulysses"}, 4, 1, 0.01),
    ({"dp_shard": 2, "cp": 2, "tp": 2}, 8, 1, 0.08),
    ({"dp_shard": 16, "tp": 2, "cp": 2}, 64, 1, 0.08),
]


@pytest.mark.parametrize(
    ("precision", "parallel", "world", "micro_batches", "off"),
    [("fp32", *row) for row in LAYOUTS] + [("bf16", *LAYOUTS[i]) for i in (0, 2, 6, 9)],
)
def test_the_arithmetic_agrees_with_a_dry_run(
    precision: str, parallel: dict[str, Any], world: int, micro_batches: int, off: float
) -> None:
    plan = planned(parallel, world, micro_batches, precision)
    counted = dry_run(plan)
    assert counted.parameters == plan.stages[0].parameters
    states = plan.memory.weights + plan.memory.gradients
    assert counted.resting_bytes == pytest.approx(states, rel=0.01)
    assert counted.peak_bytes == pytest.approx(counted.planned_peak, rel=0.3)
    assert counted.sent_bytes == pytest.approx(counted.planned_sent, rel=off, abs=1)
    assert (counted.sent_bytes > 0) == (world > 1)


@pytest.mark.parametrize("parallel", [{"pp": 2}, {"dp_shard": 1, "dp_replicate": 2}])
def test_what_cannot_run_dry_is_said(parallel: dict[str, Any]) -> None:
    plan = planned(parallel, 2, 4)
    with pytest.raises(UserError, match="single rank"):
        dry_run(plan)


@pytest.mark.parametrize("name", ["adamw", "muon", "sgd"])
def test_optimizer_state_is_as_large_as_planned(name: str) -> None:
    model = build_model(CONFIG)
    optimizer = build_optimizer(model, OptimConfig.parse({"name": name, "momentum": 0.9}))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = optimizer.state_dict()["tensors"].values()
    real = sum(t.numel() * t.element_size() for t in tensors if t.numel() > 1)
    alone = stages(CONFIG, layout(ParallelConfig.parse({}), World()))[0]
    assert optimizer_bytes(name, alone.kept) == pytest.approx(real, rel=0.001)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"feedforward": "gelu", "norm": "layernorm"},
        {"kv_heads": 2, "qk_norm": True},
        {"norm_placement": "sandwich"},
    ],
)
def test_activations_are_as_large_as_planned(change: dict[str, Any]) -> None:
    """Against the bytes of what autograd saves, weights left out."""
    config = CONFIG.replace(**change)
    model = build_model(config)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(0, config.vocab_size, (ROWS, LENGTH))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.hidden(ids)
    job = Job(config, LENGTH, ROWS * LENGTH, precision="fp32", checkpointing="none")
    plan = make_plan(job, device_named("h100"))
    assert hidden.requires_grad
    assert plan.memory.activations == pytest.approx(sum(saved.values()), rel=0.3)
