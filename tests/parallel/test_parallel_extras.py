"""The options of the fastest models over many processes: equal to one process, or refused."""

from typing import Any

import pytest
from parallel_ranks import run_ranks
from parallel_small import Case, check_equal, parallel, single, small_config

from langwright.base import UserError
from langwright.parallel import ParallelConfig, World, layout, stage_layers
from langwright.parallel.context import check_context

pytestmark = [pytest.mark.parallel, pytest.mark.sample]
NO_SMEAR: dict[str, Any] = {
    "residual_scalars": True,
    "value_embeddings": True,
    "backout": True,
    "embedding_norm": True,
    "tied": False,
    "layers": 3,
}
ALL = {**NO_SMEAR, "smear": True}
MUON = {"name": "muon", "cautious_decay": True}


@pytest.mark.parametrize(
    "form",
    [
        {"dp_replicate": 2},
        {"dp_shard": 2},
        {"tp": 2},
        {"tp": 2, "sequence_parallel": False, "loss_parallel": False},
    ],
    ids=["ddp", "fsdp", "tp", "tp plain"],
)
def test_two_processes_equal_one(form: dict[str, Any]) -> None:
    case = Case(model=ALL, parallel=form, optimizer=MUON, documents=True)
    check_equal(run_ranks(2, parallel, case)[0], single(case), loss=5e-6)


@pytest.mark.parametrize("method", ["allgather", "ulysses"])
def test_context_parallel_without_smear(method: str) -> None:
    case = Case(model=NO_SMEAR, parallel={"cp": 2, "cp_method": method}, documents=True)
    check_equal(run_ranks(2, parallel, case)[0], single(case), loss=5e-6)


def test_checkpointed_blocks_under_fsdp() -> None:
    case = Case(model=ALL, parallel={"dp_shard": 2}, activations="full", steps=2)
    check_equal(run_ranks(2, parallel, case)[0], single(case), loss=5e-6)


def test_what_does_not_go_together_is_refused() -> None:
    place = layout(ParallelConfig(cp=2), World(size=2, rank=0))
    with pytest.raises(UserError, match="token before") as told:
        check_context(small_config(**ALL), place)
    assert "smear = false" in str(told.value)
    check_context(small_config(**NO_SMEAR), place)
    for name in ("residual_scalars", "value_embeddings", "smear", "backout"):
        with pytest.raises(UserError, match="stream alone") as told:
            stage_layers(small_config(**{name: True}), 2)
        assert f"model.{name} = true" in str(told.value) and "pp = 1" in str(told.value)
