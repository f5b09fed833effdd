"""Data parallel forms against one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parallel_ranks import run_ranks
from parallel_small import (
    BF16_GRADIENT,
    BF16_LOSS,
    Case,
    check_equal,
    parallel,
    parallel_form,
    single,
    small_config,
    updater_of,
)

from langwright.parallel import ParallelConfig, World, distributed, from_seed, layout

pytestmark = [pytest.mark.parallel, pytest.mark.sample]
DDP = {"dp_replicate": 2, "dp_shard": 1}
MUON = {"name": "muon"}
WORLDS: dict[str, tuple[int, Case]] = {
    "ddp": (2, Case(parallel=DDP)),
    "ddp muon": (2, Case(parallel=DDP, optimizer=MUON, micro_rows=4)),
    "ddp dropout": (2, Case(parallel=DDP, model={"dropout_residual": 0.2})),
    "fsdp": (2, Case(parallel={"dp_shard": 2})),
    "fsdp untied": (2, Case(parallel={"dp_shard": 2}, model={"tied": False}, micro_rows=1)),
    "fsdp kept": (2, Case(parallel={"dp_shard": 2, "reshard": "never"})),
    "fsdp offload": (2, Case(parallel={"dp_shard": 2, "offload": True})),
    "fsdp dropout": (2, Case(parallel={"dp_shard": 2}, model={"dropout_residual": 0.2})),
    "fsdp muon": (2, Case(parallel={"dp_shard": 2}, optimizer=MUON)),
    "fsdp 3": (3, Case(parallel={"dp_shard": 3}, rows=12)),
    "fsdp 4 muon": (4, Case(parallel={"dp_shard": 4}, optimizer=MUON)),
    "hsdp": (4, Case(parallel={"dp_replicate": 2, "dp_shard": 2}, micro_rows=1)),
    "hsdp muon": (4, Case(parallel={"dp_replicate": 2, "dp_shard": 2}, optimizer=MUON)),
}


@pytest.mark.parametrize("name", WORLDS)
def test_processes_equal_one(name: str) -> None:
    """Rows with unequal counts of targets, several micro-batches, tied weights."""
    count, case = WORLDS[name]
    check_equal(run_ranks(count, parallel, case)[0], single(case), loss=5e-6)


@pytest.mark.parametrize("form", [DDP, {"dp_shard": 2}], ids=["ddp", "fsdp"])
def test_bf16(form: dict[str, Any]) -> None:
    case = Case(parallel=form, dtype=torch.bfloat16)
    check_equal(
        run_ranks(2, parallel, case)[0], single(case), loss=BF16_LOSS, gradient=BF16_GRADIENT
    )


def test_gradients_may_be_added_up_in_bf16() -> None:
    """They differ, by as much as bf16 rounds."""
    case = Case(parallel={"dp_shard": 2, "reduce": "bf16"}, steps=1)
    found, wanted = run_ranks(2, parallel, case)[0], single(case)
    check_equal(found, wanted, loss=BF16_LOSS, gradient=BF16_GRADIENT)
    [ours], [theirs] = found.gradients, wanted.gradients
    assert any(not torch.equal(ours[name], theirs[name]) for name in theirs)


def test_weights_from_outside_reach_muons_owners() -> None:
    for found in run_ranks(2, _load_others):
        assert found["checked"] > 0 and found["difference"] == 0.0


def _load_others() -> dict[str, float]:
    case = Case(parallel={"dp_shard": 2}, optimizer=MUON)
    form = parallel_form(case)
    optimizer = updater_of(case, form).optimizer
    source = from_seed(small_config(), 9)
    form.load(source, optimizer)
    owned = optimizer.owners.owned
    wrong = [(whole - source(name, whole.shape)).abs().max() for name, whole in owned.items()]
    return {"checked": len(wrong), "difference": float(max(wrong))}


@pytest.mark.parametrize("reshard", ["always", "never"])
def test_weights_may_travel_in_bf16(reshard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do on GPUs: the casts before use then do nothing, and nothing else changes."""
    monkeypatch.setattr(distributed, "_gather_dtype", lambda config, dtype, layout: dtype)
    case = Case(parallel={"dp_shard": 2, "reshard": reshard}, dtype=torch.bfloat16)
    check_equal(
        run_ranks(2, parallel, case)[0], single(case), loss=BF16_LOSS, gradient=BF16_GRADIENT
    )


def test_gpus_gather_plain_blocks_in_the_products_dtype() -> None:
    bf16, plain = torch.bfloat16, small_config()
    gpus = layout(ParallelConfig(), World(size=2, device="cuda:0"))
    cpus = layout(ParallelConfig(), World(size=2))
    assert distributed._gather_dtype(plain, bf16, gpus) == bf16
    assert distributed._gather_dtype(plain, torch.float32, gpus) is None
    assert distributed._gather_dtype(plain, bf16, cpus) is None
    for exact in ({"attention_sinks": True}, {"norm_offset": True}, {"position": "relative"}):
        assert distributed._gather_dtype(small_config(**exact), bf16, gpus) is None
