"""Pipelines against one process, and their schedules on paper."""

import pytest
from parallel_ranks import run_ranks
from parallel_small import Case, check_equal, parallel, single

FOUR = {"layers": 4}
EXPERTS = {"count": 4, "chosen": 2, "hidden_width": 24, "balance_loss": 0.02, "router_z_loss": 0.01}


@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "interleaved", "zero-bubble"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_two_processes_equal_one(schedule: str, tied: bool) -> None:
    case = Case(model={**FOUR, "tied": tied}, parallel={"pp": 2, "schedule": schedule})
    check_equal(run_ranks(2, parallel, case)[0], single(case), loss=5e-6)
