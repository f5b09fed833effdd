"""GaLore over processes against one: the owner of a matrix projects its whole gradient."""

from __future__ import annotations

import math
from typing import Any

import pytest
from parallel_ranks import run_ranks
from parallel_small import TIED_LOSS, Case, check_equal, parallel, single
from test_parallel_matrix import MODELS

# Few directions: those of the smallest singular values are decided by rounding, and moments that
# were kept for one of them belong to another when the projection is made anew.
GALORE = {"name": "galore", "galore_rank": 2, "galore_every": 2}
FORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # layout, model
    "ddp": ({"dp_replicate": 2, "dp_shard": 1}, {}),
    "fsdp": ({"dp_shard": 2}, {}),
    "tp": ({"tp": 2}, {}),
    "hsdp": ({"dp_replicate": 2, "dp_shard": 2}, {}),
    "fsdp tp": ({"dp_shard": 2, "tp": 2}, {}),
    "pp": ({"pp": 2}, {"layers": 4}),
    "ep": ({"dp_shard": 2, "ep": 2}, MODELS["experts"]),
}
SAMPLE = {"fsdp", "tp"}


@pytest.mark.parallel
@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=pytest.mark.sample if f in SAMPLE else ()) for f in FORMS]
)
def test_processes_equal_one(form: str) -> None:
    """Five updates with three projections."""
    degrees, model = FORMS[form]
    count = math.prod(size for name, size in degrees.items() if name != "ep")
    case = Case(model=model, parallel=degrees, optimizer=GALORE, steps=5)
    check_equal(run_ranks(count, parallel, case)[0], single(case), loss=TIED_LOSS)
