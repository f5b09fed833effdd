"""The arithmetic against the real distributed model, its collectives and its optimizer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh

from langwright.base import UserError
from langwright.dataset import Batch
from langwright.model import build_model, model_config
from langwright.optim import OptimConfig, build_optimizer
from langwright.parallel import ParallelConfig, World, layout
from langwright.plan import (
    Job,
    Plan,
    device_named,
    dry_run,
    dry_runs,
    make_plan,
    plan_text,
)
from langwright.plan.decide import activations_of, cut
from langwright.plan.memory import optimizer_bytes
from langwright.plan.shares import stages
from langwright.train import TrainConfig, training_job
from langwright.train.offload import ActivationOffload, HostOptimizer

LENGTH, ROWS = 64, 2
TABLE: dict[str, Any] = {
    "vocab_size": 512, "width": 64, "layers": 4, "heads": 4, "context_length": 64, "tied": False
}  # fmt: skip
CONFIG = model_config(TABLE)


def planned(
    parallel: dict[str, Any],
    world: int,
    micro_batches: int,
    precision: str = "fp32",
    **changes: Any,
) -> Plan:
    model = model_config({**TABLE, **changes})
    config = ParallelConfig.parse(parallel)
    data = layout(config, World(size=world)).data_size
    job = Job(
        model,
        LENGTH,
        ROWS * LENGTH * micro_batches * data,
        parallel=config,
        precision=precision,
        micro_rows=ROWS,
        chunk_tokens=32,
    )
    return make_plan(job, device_named("h100"), world)


LAYOUTS: list[tuple[dict[str, Any], int, int]] = [
    # parallel section, devices, micro-batches
    ({}, 1, 2),
    ({"dp_shard": 4}, 4, 1),
    ({"dp_shard": 4}, 4, 2),
    ({"dp_shard": 4, "reshard": "never"}, 4, 2),
    ({"dp_shard": 2, "dp_replicate": 2}, 4, 1),
    ({"dp_shard": 1, "tp": 2}, 2, 1),
    ({"dp_shard": 2, "tp": 4}, 8, 1),
    ({"dp_shard": 1, "tp": 4, "sequence_parallel": False}, 4, 1),
    ({"dp_shard": 2, "cp": 4}, 8, 1),
    ({"dp_shard": 1, "cp": 4, "cp_method": "ulysses"}, 4, 1),
    ({"dp_shard": 2, "cp": 2, "tp": 2}, 8, 1),
    ({"dp_shard": 16, "tp": 2, "cp": 2}, 64, 1),
    ({"dp_shard": 1, "dp_replicate": 2}, 2, 2),
    ({"pp": 2}, 2, 4),
    ({"pp": 4, "schedule": "gpipe"}, 4, 8),
    ({"pp": 2, "schedule": "interleaved"}, 2, 4),
    ({"pp": 2, "schedule": "zero-bubble", "dp_shard": 2}, 4, 4),
    ({"pp": 2, "dp_shard": 2, "tp": 2, "reshard": "always"}, 8, 4),
    ({"pp": 2, "dp_shard": 1, "tp": 2, "sequence_parallel": False}, 4, 4),
    ({"pp": 2, "dp_shard": 2, "dp_replicate": 2, "tp": 2}, 16, 4),
    ({"pp": 2, "dp_shard": 1, "dp_replicate": 2}, 4, 4),
    ({"pp": 2, "dp_shard": 1, "cp": 2}, 4, 4),
    ({"dp_shard": 2, "ep": 2}, 2, 2),
    ({"dp_shard": 4, "ep": 2}, 4, 1),
    ({"dp_shard": 4, "ep": 4, "pp": 2}, 8, 4),
]
EXPERTS = {"count": 4, "chosen": 2, "hidden_width": 64, "balance_loss": 0.01}


@pytest.mark.parametrize(
    ("precision", "parallel", "world", "micro_batches"),
    [("fp32", *row) for row in LAYOUTS] + [("bf16", *LAYOUTS[i]) for i in (0, 2, 6, 9)],
)
def test_the_arithmetic_agrees_with_a_dry_run(
    precision: str, parallel: dict[str, Any], world: int, micro_batches: int
) -> None:
    changes = {"experts": EXPERTS} if "ep" in parallel else {}
    plan = planned(parallel, world, micro_batches, precision, **changes)
    counted = dry_runs(plan)
    assert [one.stage for one in counted] == list(range(plan.layout.pp))
    for one, stage in zip(counted, plan.stages, strict=True):
        assert one.micro_batches == micro_batches
        assert one.parameters == one.planned_parameters == stage.parameters
        assert one.resting_bytes == pytest.approx(2 * 4 * stage.parameters, rel=0.001)
        assert one.peak_bytes == pytest.approx(one.planned_peak, rel=0.3)
        # Besides go numbers of targets and sums of losses: some thousand bytes.
        assert one.planned_sent <= one.sent_bytes + 1 <= 1.02 * one.planned_sent + 1.5
        assert (one.sent_bytes > 0) == (world > 1)
        if plan.layout.pp > 1:
            inner = 2 * micro_batches if 0 < one.stage < plan.layout.pp - 1 else micro_batches
            chunks = 3 if parallel.get("schedule") == "interleaved" else 1
            assert one.collectives["send"] == inner * chunks


def test_stages_are_ranks_of_their_own() -> None:
    """The first has the embedding, the last the head: neither has both."""
    plan = planned({"pp": 2, "dp_shard": 2}, 4, 4)
    first, last = (dry_run(plan, stage) for stage in (0, 1))
    both = planned({"dp_shard": 2}, 2, 4).stages[0].parameters
    assert first.parameters + last.parameters == both
    assert last.parameters - first.parameters == CONFIG.width // 2  # the last norm


def test_a_tied_matrix_is_on_both_ends_of_a_pipeline() -> None:
    plan = planned({"pp": 2, "dp_shard": 2}, 4, 4, tied=True)
    for stage in (0, 1):
        found = dry_run(plan, stage)
        assert found.collectives["allreduce"] == 2  # its gradient, and the sums of losses
        assert found.sent_bytes == pytest.approx(found.planned_sent, rel=1e-4)
    alone = planned({"pp": 2, "dp_shard": 2}, 4, 4)
    more = dry_run(plan).sent_bytes - dry_run(alone).sent_bytes
    assert more == 4 * TABLE["vocab_size"] * TABLE["width"] / 2


def test_a_dry_run_leaves_torch_as_it_was() -> None:
    def parts() -> list[Any]:
        kinds = (torch.nn.parallel.DistributedDataParallel, DeviceMesh.__init__)
        return [*kinds, DeviceMesh.from_group, torch.nn.Module.to_empty, Batch.__post_init__]

    before = parts()
    dry_run(planned({"dp_shard": 1, "dp_replicate": 2}, 2, 2))
    assert parts() == before and not torch.distributed.is_initialized()


def test_a_process_of_a_group_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    with pytest.raises(UserError, match="a process of its own"):
        dry_run(planned({"dp_shard": 2}, 2, 2))


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


OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "adamw"},
    {"name": "muon"},
    {"name": "galore", "galore_rank": 8},
    {"name": "galore", "galore_rank": 1000},  # more than the matrices have
    {"name": "sgd", "momentum": 0.9},
    {"name": "sgd"},
    {"name": "adam_l2"},
]


def stepped(optimizer: Any) -> int:
    """Bytes of an optimizer's state after a step."""
    for parameter in optimizer.parameters:
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    tensors = optimizer.state_dict()["tensors"].values()
    return sum(t.numel() * t.element_size() for t in tensors if t.numel() > 1)


def job_of(optimizer: dict[str, Any], **changes: Any) -> Job:
    """What a recipe with this optimizer comes to."""
    values = {"optimizer": optimizer, "batch_tokens": 4 * LENGTH, "micro_batch_rows": 2, **changes}
    return training_job(TrainConfig.parse(values), CONFIG, LENGTH, "fp32")


@pytest.mark.parametrize("table", OPTIMIZERS, ids=str)
def test_a_recipes_optimizer_is_as_large_as_planned(table: dict[str, Any]) -> None:
    real = stepped(build_optimizer(build_model(CONFIG), OptimConfig.parse(table)))
    plan = make_plan(job_of(table), device_named("h100"))
    assert plan.memory.optimizer == pytest.approx(real, rel=0.001)
    weights = 4 * plan.stages[0].parameters
    assert plan.checkpoint_bytes == pytest.approx(weights + real, rel=0.001)
    assert plan.host_bytes == 0


@pytest.mark.parametrize("table", OPTIMIZERS[:3], ids=str)
def test_what_is_offloaded_is_planned_in_main_memory(table: dict[str, Any]) -> None:
    model = build_model(CONFIG)
    weights = sum(p.numel() * 4 for p in model.parameters())
    optimizer = HostOptimizer(build_optimizer(model, OptimConfig.parse(table)))
    states = stepped(optimizer)
    copies = sum(host.numel() * host.element_size() for _, host in optimizer._pairs)
    plain = make_plan(job_of(table), device_named("h100"))
    plan = make_plan(job_of(table, offload="optimizer"), device_named("h100"))
    assert plan.memory.optimizer == 0
    assert plan.memory.total == plain.memory.total - plain.memory.optimizer
    # Besides, the gradients on their way.
    assert plan.host_bytes == pytest.approx(states + copies + weights, rel=0.001)
    text = plan_text(plan)
    assert "main memory besides" in text and "main memory besides" not in plan_text(plain)
    cpu = replace(device_named("h100"), kind="cpu")  # no other memory than this
    here = make_plan(job_of(table, offload="optimizer"), cpu)
    assert here.host_bytes == 0
    assert here.memory.optimizer == pytest.approx(states + copies + weights, rel=0.001)


def test_offloaded_activations_leave_a_block_or_two() -> None:
    job = replace(job_of({"name": "adamw"}), checkpointing="none", model=CONFIG.replace(layers=8))
    plain = make_plan(job, device_named("h100"))
    plan = make_plan(replace(job, offload="activations"), device_named("h100"))
    moved = ActivationOffload(torch.device("cpu"), least_bytes=1024)
    ids = torch.randint(0, CONFIG.vocab_size, (2, LENGTH))
    with moved:
        build_model(job.model).hidden(ids)
    assert plan.host_bytes == pytest.approx(moved.moved_bytes, rel=0.3)
    assert plan.memory.activations == pytest.approx(2 / 8 * plain.memory.activations, rel=0.2)
    assert plan.memory.optimizer == plain.memory.optimizer


def test_sharded_weights_in_main_memory() -> None:
    job = job_of({"name": "adamw"}, parallel={"dp_shard": 2, "offload": True}, micro_batch_rows=1)
    plan = make_plan(job, device_named("h100"), 2)
    memory = plan.memory
    assert memory.weights == memory.gradients == memory.optimizer == 0 < memory.gathered
    assert plan.host_bytes == 16 * plan.stages[0].parameters


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


def test_activations_of_a_pipeline_are_those_of_its_small_pieces():
    """Its rows are cut further than was asked, so that all stages work at a time."""
    model = model_config(
        {"width": 64, "layers": 4, "heads": 4, "context_length": 64}, vocab_size=97
    )
    placed = layout(ParallelConfig.parse({"pp": 2, "dp_shard": 1}), World(rank=0, size=2))
    job = Job(model, 64, 32 * 64)
    small = cut(placed, 32, 32)
    assert 1 <= small < 32
    whole, pieces = (activations_of(job, placed, stages(model, placed), 32, n) for n in (32, small))
    assert whole == pieces > 0
