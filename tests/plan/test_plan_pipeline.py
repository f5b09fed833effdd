"""Pipelines: who has which layers, what waits, and the sums over all stages."""

from __future__ import annotations

from typing import Any

import pytest

from langwright.base import UserError
from langwright.model import model_config, parameter_count
from langwright.parallel import ParallelConfig, World, layout
from langwright.plan import Job, device_named, make_plan
from langwright.plan.memory import in_flight
from langwright.plan.shares import stages
from langwright.plan.speed import bubble_share

TABLE = {"vocab_size": 256, "width": 64, "layers": 8, "heads": 4, "context_length": 64}
CONFIG = model_config({**TABLE, "tied": False})


def placed(world: int, **parallel: Any) -> Any:
    return layout(ParallelConfig.parse(parallel), World(size=world))


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "interleaved", "zero-bubble"])
@pytest.mark.parametrize("pp", [2, 4])
def test_all_parameters_are_somewhere(name: str, pp: int) -> None:
    for tp in (1, 2):
        where = placed(2 * pp * tp, pp=pp, tp=tp, schedule=name)
        all_stages = stages(CONFIG, where)
        layers = sorted(layer for stage in all_stages for layer in stage.layers)
        assert layers == list(range(8))
        matrices = sum(stage.kept["matrix"] for stage in all_stages)
        counts = parameter_count(CONFIG)
        assert matrices * tp * where.size("fsdp") == counts.attention + counts.feedforward
        assert [s.first for s in all_stages] == [True] + [False] * (pp - 1)
        assert [s.last for s in all_stages] == [False] * (pp - 1) + [True]


def test_waiting_is_as_the_papers_say() -> None:
    for pp, micro_batches in ((2, 4), (4, 8), (4, 32)):
        plain = bubble_share(placed(pp, pp=pp), micro_batches)
        assert plain == pytest.approx((pp - 1) / micro_batches)
        assert bubble_share(placed(pp, pp=pp, schedule="gpipe"), micro_batches) == plain
        assert bubble_share(placed(pp, pp=pp, schedule="interleaved"), micro_batches) < plain
        assert bubble_share(placed(pp, pp=pp, schedule="zero-bubble"), micro_batches) <= plain
    assert bubble_share(placed(4, pp=4, schedule="zero-bubble"), 8) < 3 / 8


def test_early_stages_hold_more() -> None:
    where = placed(4, pp=4)
    assert [in_flight(where, process, 8) for process in range(4)] == [4, 3, 2, 1]
    assert in_flight(placed(4, pp=4, schedule="gpipe"), 3, 8) == 8
    assert in_flight(placed(1), 0, 8) == 1


def test_the_tied_matrix_is_at_both_ends() -> None:
    config = model_config({**TABLE, "tied": True})
    first, last = stages(config, placed(2, pp=2))
    assert first.kept["embedding"] == last.kept["embedding"] == 256 * 64


@pytest.mark.parametrize(
    ("parallel", "world", "rows", "message"),
    [
        ({"tp": 3, "dp_shard": 1}, 3, 8, "heads must divide"),
        ({"pp": 16, "dp_shard": 1}, 16, 32, "fewer layers"),
        ({"cp": 5, "dp_shard": 1}, 5, 8, "sequence must divide"),
        ({"dp_shard": 3}, 3, 8, "shared out evenly"),
        ({"dp_shard": 2, "ep": 2}, 2, 8, "experts must divide"),
        ({"tp": 2, "dp_shard": 3}, 8, 8, "cannot be shared out"),
    ],
)
def test_what_does_not_divide_is_said(
    parallel: dict[str, Any], world: int, rows: int, message: str
) -> None:
    job = Job(CONFIG, 64, 64 * rows, parallel=ParallelConfig.parse(parallel))
    with pytest.raises(UserError, match=message):
        make_plan(job, device_named("h100"), world)
