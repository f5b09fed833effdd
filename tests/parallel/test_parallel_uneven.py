"""Processes with hardly a token to count beside others with many: each token weighs the same.

The first half of every batch has two rows without a counted token and two with one; a mean of means
over micro-batches or processes would be far off.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
from parallel_ranks import run_ranks
from parallel_small import ROWS, TIED_LOSS, Case, UnevenRows, check_equal, parallel, single
from test_parallel_matrix import MODELS

PIPELINE = {"pp": 2, "dp_replicate": 2, "dp_shard": 1}
EXPERTS = MODELS["experts"]
FORMS: dict[str, tuple[dict[str, Any], int, dict[str, Any]]] = {  # layout, rows at a time, model
    "ddp": ({"dp_replicate": 2, "dp_shard": 1}, 1, {}),
    "ddp at once": ({"dp_replicate": 2, "dp_shard": 1}, 4, {}),
    "fsdp": ({"dp_shard": 2}, 2, {}),
    "fsdp sharded": ({"dp_shard": 2, "accumulate": "sharded"}, 1, {}),
    "four": ({"dp_shard": 4}, 1, {}),  # one process has no token at all
    "tp": ({"tp": 2}, 2, {}),
    "cp": ({"cp": 2}, 2, {}),  # the first tokens of a row are one process's
    "fsdp cp": ({"dp_shard": 2, "cp": 2}, 1, {}),
    "ep": ({"dp_shard": 2, "ep": 2}, 2, EXPERTS),
    "pp": ({"pp": 2}, 2, {"layers": 4}),
    "pp ddp": (PIPELINE, 1, {"layers": 4}),
    "pp fsdp interleaved": (
        {"pp": 2, "dp_shard": 2, "schedule": "interleaved"}, 1, {"layers": 4}
    ),
    "pp ddp zero-bubble": ({**PIPELINE, "schedule": "zero-bubble"}, 1, {"layers": 4}),
    "pp experts": ({"pp": 2, "pipeline_microbatches": 4}, 2, {"layers": 4, **EXPERTS}),
}  # fmt: skip
SAMPLE = {"four", "fsdp sharded", "pp ddp"}


@pytest.mark.parallel
@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=pytest.mark.sample if f in SAMPLE else ()) for f in FORMS]
)
def test_every_token_weighs_the_same(form: str) -> None:
    degrees, micro_rows, model = FORMS[form]
    edges = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
    count = math.prod(degrees.get(edge, 1) for edge in edges)
    case = Case(model=model, parallel=degrees, micro_rows=micro_rows, skewed=True)
    check_equal(run_ranks(count, parallel, case)[0], single(case), loss=TIED_LOSS)


def test_the_rows_are_skewed() -> None:
    batch = UnevenRows(skewed=True).batch(0, ROWS)
    assert [micro.tokens for micro in batch.split(2)] == [0, 2, 32, 32]
