"""Pipeline schedules and stages on paper."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.model import model_config
from langwright.parallel import ParallelConfig, World, layout
from langwright.parallel.pipeline_update import in_flight
from langwright.parallel.schedules import Action, duration, schedule
from langwright.parallel.stages import stage_layers

NAMES = ("gpipe", "1f1b", "interleaved", "zero-bubble")


def plan_of(name: str, processes: int, micros: int) -> list[list[Action]]:
    chunks = 2 if name == "interleaved" else 1
    return schedule(name, processes, chunks, micros)


def most_held(actions: list[Action]) -> int:
    held = most = 0
    for action in actions:
        held += {"forward": 1, "backward": -1, "inputs": 0, "weights": -1}[action.kind]
        most = max(most, held)
    return most


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(NAMES), st.integers(2, 6), st.integers(1, 4))
def test_everything_is_done_once_and_nobody_waits_for_ever(
    name: str, processes: int, groups: int
) -> None:
    micros = groups * processes
    plan = plan_of(name, processes, micros)
    duration(plan, processes)  # raises if it cannot be carried out
    stages = processes * (2 if name == "interleaved" else 1)
    done = [action for actions in plan for action in actions]
    assert len(set(done)) == len(done)
    everything = {(stage, micro) for stage in range(stages) for micro in range(micros)}
    by_kind = {
        kind: {(a.stage, a.micro) for a in done if a.kind == kind}
        for kind in ("forward", "backward", "inputs", "weights")
    }
    assert by_kind["forward"] == everything
    assert by_kind["backward"] | by_kind["inputs"] == everything
    assert not by_kind["backward"] & by_kind["inputs"]
    assert by_kind["weights"] == by_kind["inputs"]
    assert bool(by_kind["weights"]) == (name == "zero-bubble")
    for process, actions in enumerate(plan):
        assert all(action.stage % processes == process for action in actions)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 20))
def test_any_number_of_micro_batches(processes: int, micros: int) -> None:
    for name in ("gpipe", "1f1b", "zero-bubble"):
        plan = plan_of(name, processes, micros)
        duration(plan, processes)
        counts = [sum(a.kind != "weights" for a in actions) for actions in plan]
        assert counts == [2 * micros] * processes


@pytest.mark.parametrize(("processes", "micros"), [(2, 4), (4, 8), (4, 16), (8, 16)])
def test_bubbles_and_memory_are_those_of_the_papers(processes: int, micros: int) -> None:
    idle = {}
    for name in NAMES:
        plan = plan_of(name, processes, micros)
        end, work = duration(plan, processes)
        idle[name] = (end - work) / work
        if name == "zero-bubble":
            assert max(most_held(actions) for actions in plan) == min(micros, processes)
        if name == "1f1b":
            assert [most_held(actions) for actions in plan] == [
                min(micros, processes - process) for process in range(processes)
            ]
    # Narayanan et al. 2021, section 2.2: (P - 1) / M, with v chunks 1 / v of it.
    assert idle["gpipe"] == idle["1f1b"] == pytest.approx((processes - 1) / micros)
    assert idle["interleaved"] == pytest.approx(idle["1f1b"] / 2)
    # Qi et al. 2023, table 2: (P - 1)(F + B - W) in place of (P - 1)(F + B + W); here F = B = W.
    assert idle["zero-bubble"] == pytest.approx(idle["1f1b"] / 3)


def test_a_schedule_in_which_everybody_waits_is_found() -> None:
    plan = plan_of("1f1b", 2, 2)
    plan[1].reverse()
    with pytest.raises(ValueError, match="everybody waits"):
        duration(plan, 2)


def test_stages_cover_all_layers_and_the_head_counts() -> None:
    even = model_config({"width": 64, "layers": 8, "heads": 4}, vocab_size=64)
    assert [len(layers) for layers in stage_layers(even, 4)] == [2, 2, 2, 2]
    heavy = model_config({"width": 64, "layers": 8, "heads": 4}, vocab_size=2500)
    divided = stage_layers(heavy, 2)
    assert [layer for layers in divided for layer in layers] == list(range(8))
    assert len(divided[1]) < len(divided[0])
    assert stage_layers(even, 8) == [[layer] for layer in range(8)]
    with pytest.raises(UserError, match="needs a layer"):
        stage_layers(even, 9)


@pytest.mark.parametrize(
    ("rows", "micro_rows", "options", "expected"),
    [
        (16, 16, {}, 8),
        (16, 1, {}, 16),
        (2, 2, {}, 2),
        (12, 12, {"pipeline_microbatches": 6}, 6),
        (12, 12, {"schedule": "interleaved"}, 12),
    ],
)
def test_micro_batches_in_flight(rows: int, micro_rows: int, options: dict, expected: int) -> None:
    place = layout(ParallelConfig.parse({"pp": 4, "dp_shard": 1, **options}), World(0, 4))
    assert in_flight(rows, micro_rows, place) == expected


@pytest.mark.parametrize(
    ("rows", "options"),
    [(6, {"schedule": "interleaved"}), (6, {"pipeline_microbatches": 8})],
)
def test_rows_that_cannot_be_cut_are_refused(rows: int, options: dict) -> None:
    place = layout(ParallelConfig.parse({"pp": 4, "dp_shard": 1, **options}), World(0, 4))
    with pytest.raises(UserError, match="cannot be cut into micro-batches"):
        in_flight(rows, rows, place)
