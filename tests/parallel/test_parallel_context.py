"""Context parallel against one process: every kind of attention, both ways."""

from typing import Any

import pytest
from parallel_ranks import run_ranks
from parallel_small import Case, check_equal, parallel, single

from langwright.base import UserError
from langwright.dataset import Batch
from langwright.parallel import ParallelConfig, World, layout

MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "learned": {"position": "learned", "norm": "layernorm", "feedforward": "gelu_tanh"},
    "gemma": {"window": 5, "attention_softcap": 3.0, "qk_norm": True},
    "relative": {"position": "relative", "attention_sinks": True},
    "alibi": {"position": "alibi", "kv_heads": None},
    "uneven": {"heads": 6, "kv_heads": 3, "width": 48},  # a key head goes to both processes
    "latent": {"latent": {"kv_rank": 16, "query_rank": 12, "rotary_width": 4}, "kv_heads": None},
}
ALWAYS = {
    ("gemma", "allgather"),
    ("relative", "allgather"),
    ("relative", "ulysses"),
    ("uneven", "ulysses"),
}


@pytest.mark.parallel
@pytest.mark.parametrize(
    ("model", "method"),
    [
        pytest.param(model, method, marks=pytest.mark.sample if (model, method) in ALWAYS else ())
        for model in MODELS
        for method in ("allgather", "ulysses")
    ],
)
def test_two_processes_equal_one(model: str, method: str) -> None:
    case = Case(model=MODELS[model], parallel={"cp": 2, "cp_method": method})
    check_equal(run_ranks(2, parallel, case)[0], single(case), loss=5e-6)


def refusal(**changes: Any) -> str:
    """What a process says to a layout, in the form of an update."""
    case = Case(**changes)
    try:
        parallel(case)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": {"dropout_residual": 0.1}, "parallel": {"cp": 2}}, "dropout masks"),
        ({"model": {"heads": 3, "kv_heads": 3, "width": 24},
          "parallel": {"cp": 2, "cp_method": "ulysses"}}, "shares out the model's heads"),
        ({"model": {"layers": 1}, "parallel": {"pp": 2}}, "needs a layer"),
        ({"parallel": {"dp_shard": 2, "ep": 2}}, "0 experts over 2"),
    ],
    ids=["dropout", "heads", "layers", "experts"],
)  # fmt: skip
def test_what_cannot_be_shared_out_is_refused(changes: dict[str, Any], words: str) -> None:
    assert all(words in found for found in run_ranks(2, _refused, changes))


def _refused(changes: dict[str, Any]) -> str:
    return refusal(**changes)


def test_rows_that_cannot_be_cut_are_refused() -> None:
    assert run_ranks(2, _odd_rows) == ["rows of 18 tokens, 2 processes"] * 2


def _odd_rows() -> str:
    import torch

    from langwright.parallel import world
    from langwright.parallel.context import Context

    context = Context(layout(ParallelConfig.parse({"cp": 2, "dp_shard": 1}), world("cpu")))
    ids = torch.zeros(1, 18, dtype=torch.int64)
    try:
        context.take(Batch(ids, ids))
    except UserError as error:
        return str(error.found)
    return ""


def test_everybody_has_the_same_work() -> None:
    """Queries times keys seen, of each process, for runs as `Context` deals them out."""
    from langwright.parallel.context import Context

    class Paper(Context):
        def __init__(self, rank: int) -> None:
            self.layout = layout(ParallelConfig.parse({"cp": 4, "dp_shard": 1}), World(rank, 4))
            self.count, self.rank, self.by_heads = 4, rank, False

    runs = [Paper(rank).runs(64) for rank in range(4)]
    covered = sorted(place for own in runs for first, end in own for place in range(first, end))
    assert covered == list(range(64))
    work = [sum(place + 1 for a, b in own for place in range(a, b)) for own in runs]
    assert len(set(work)) == 1
