"""Expert parallel against one process."""

import pytest
from parallel_ranks import run_ranks
from parallel_small import Case, check_equal, parallel, single

pytestmark = [pytest.mark.parallel, pytest.mark.sample]
EXPERTS = {
    "count": 4,
    "chosen": 2,
    "hidden_width": 24,
    "shared_width": 16,
    "shared_gate": True,
    "balance_loss": 0.02,
    "router_z_loss": 0.01,
}
MODEL = {"experts": EXPERTS}


@pytest.mark.parametrize("optimizer", [{}, {"name": "muon"}], ids=["adamw", "muon"])
def test_two_processes_equal_one(optimizer: dict) -> None:
    case = Case(model=MODEL, parallel={"ep": 2}, optimizer=optimizer)
    check_equal(run_ranks(2, parallel, case)[0], single(case))


@pytest.mark.parametrize(
    "form",
    [
        {"dp_shard": 4, "ep": 2},
        {"dp_shard": 2, "dp_replicate": 2, "ep": 2},
    ],
    ids=lambda form: " ".join(f"{name} {size}" for name, size in form.items()),
)
def test_four_processes_equal_one(form: dict) -> None:
    case = Case(model=MODEL, parallel=form)
    check_equal(run_ranks(4, parallel, case)[0], single(case), loss=5e-6)
