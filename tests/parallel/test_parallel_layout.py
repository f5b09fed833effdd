"""From degrees to places, without any process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from langwright.base import UserError
from langwright.parallel import ParallelConfig, World, layout, world
from langwright.parallel.cuts import Part, assemble
from langwright.parallel.layout import EDGES, SPANS

SPAN_NAMES = [*SPANS, "ep", "expert_shard"]


def place(size: int, rank: int = 0, **degrees: Any):
    return layout(ParallelConfig.parse(degrees), World(rank, size))


def test_degrees_are_resolved() -> None:
    assert place(1).alone and place(1).describe() == "one process"
    assert place(8).sizes == {"pp": 1, "dp_replicate": 1, "dp_shard": 8, "cp": 1, "tp": 1}
    assert place(16, tp=2, pp=2, dp_replicate=2).describe() == (
        "pp 2 x dp_replicate 2 x dp_shard 2 x tp 2"
    )
    assert place(4, dp_shard=1, dp_replicate=-1).sizes["dp_replicate"] == 4


@pytest.mark.parametrize(
    ("size", "degrees", "message"),
    [
        (1, {"tp": 2}, "1 processes cannot be shared out so"),
        (6, {"tp": 4}, "a divisor of 6"),
        (4, {"dp_shard": 2}, "a product of 4"),
        (4, {"dp_shard": -1, "dp_replicate": -1}, "only one degree can be -1"),
        (4, {"dp_shard": 0}, "at least 1, or -1"),
        (4, {"ep": 3}, "a divisor of 4"),
        (2, {"pp": 2, "schedule": "zero-bubble", "reshard": "always"}, "wrong gradients"),
    ],
)
def test_what_does_not_fit_is_refused(size: int, degrees: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        place(size, **degrees)
    assert caught.value.where and "parallel" in caught.value.where


degrees = st.fixed_dictionaries({edge: st.integers(1, 3) for edge in EDGES})


@settings(deadline=None)
@given(degrees, st.data())
def test_groups_share_out_the_world(sizes: dict[str, int], data: st.DataObject) -> None:
    total = 1
    for size in sizes.values():
        total *= size
    fsdp = sizes["dp_shard"] * sizes["cp"]
    ep = data.draw(st.sampled_from([n for n in range(1, fsdp + 1) if fsdp % n == 0]))
    layouts = [place(total, rank, **sizes, ep=ep) for rank in range(total)]
    for span in SPAN_NAMES:
        groups = layouts[0].groups_of(span)
        assert sorted(rank for group in groups for rank in group) == list(range(total))
        assert {len(group) for group in groups} == {layouts[0].size(span)}
        for rank, one in enumerate(layouts):
            assert one.peers(span)[one.rank(span)] == rank
    assert layouts[0].data_size == sizes["dp_replicate"] * sizes["dp_shard"]
    assert layouts[0].size("ep") * layouts[0].size("expert_shard") == fsdp


@settings(deadline=None)
@given(degrees, st.integers(1, 7), st.integers(1, 7))
def test_pieces_make_up_the_whole(sizes: dict[str, int], rows: int, columns: int) -> None:
    """Whatever the cuts, uneven and empty pieces included; each is written by one process."""
    total = 1
    for size in sizes.values():
        total *= size
    whole = torch.arange(rows * columns, dtype=torch.float32).view(rows, columns)
    part = Part((rows, columns)).cut("tp", 1).cut("fsdp", 0)
    found = torch.full_like(whole, -1.0)
    layouts = [place(total, rank, **sizes) for rank in range(total)]
    pieces = [(part.bounds(one), part.take(whole, one)) for one in layouts]
    assert torch.equal(assemble(pieces, found), whole)
    for rank, one in enumerate(layouts):
        assert part.bounds(layouts[0], rank) == part.bounds(one)
        start = part.offset(one)
        assert [b.start for b in part.bounds(one)] == list(start)
    # Each number counts once in a norm.
    weight = torch.zeros_like(whole)
    for bounds, one in zip((bounds for bounds, _ in pieces), layouts):
        weight[bounds] += 1 / part.copies(one) / one.pp
    torch.testing.assert_close(weight, torch.ones_like(whole))


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert world("cpu") == World()
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    found = world("cpu")
    assert (found.rank, found.size, found.local_rank, found.first) == (3, 4, 1, False)
    assert found.backend == "gloo" and World(device="cuda:1").backend == "cpu:gloo,cuda:nccl"
    monkeypatch.setenv("RANK", "4")
    with pytest.raises(UserError, match="RANK must be below"):
        world("cpu")
    monkeypatch.setenv("RANK", "one")
    with pytest.raises(UserError, match="not a number"):
        world("cpu")
