"""Context parallel against one process: every kind of attention, both ways."""

from typing import Any

import pytest
from parallel_ranks import run_ranks
from parallel_small import Case, check_equal, parallel, single

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "learned": {"position": "learned", "norm": "layernorm", "feedforward": "gelu_tanh"},
    "gemma": {"window": 5, "attention_softcap": 3.0, "qk_norm": True},
    "relative": {"position": "relative", "attention_sinks": True},
    "alibi": {"position": "alibi", "kv_heads": None},
    "latent": {"latent": {"kv_rank": 16, "query_rank": 12, "rotary_width": 4}, "kv_heads": None},
}


@pytest.mark.parametrize("method", ["allgather", "ulysses"])
@pytest.mark.parametrize("model", MODELS)
def test_two_processes_equal_one(model: str, method: str) -> None:
    case = Case(model=MODELS[model], parallel={"cp": 2, "cp_method": method})
    check_equal(run_ranks(2, parallel, case)[0], single(case), loss=5e-6)
