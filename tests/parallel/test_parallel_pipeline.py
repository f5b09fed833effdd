"""Every schedule of a pipeline against one process."""

import pytest
from parallel_ranks import run_ranks
from parallel_small import Case, check_equal, parallel, single

ALWAYS = {("1f1b", True), ("interleaved", False), ("zero-bubble", True)}


@pytest.mark.parallel
@pytest.mark.parametrize(
    ("schedule", "tied"),
    [
        pytest.param(name, tied, marks=pytest.mark.sample if (name, tied) in ALWAYS else ())
        for name in ("gpipe", "1f1b", "interleaved", "zero-bubble")
        for tied in (True, False)
    ],
)
def test_two_processes_equal_one(schedule: str, tied: bool) -> None:
    case = Case(model={"layers": 4, "tied": tied}, parallel={"pp": 2, "schedule": schedule})
    found = run_ranks(2, parallel, case)
    check_equal(found[0], single(case), loss=5e-6 if tied else 2e-6)
    assert found[1].losses == found[0].losses and found[1].norms == found[0].norms
