"""A short soak; the long one is benchmarks/soak.py."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from serve_small import engine, listening

from langwright.serve import ServeConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
soak = pytest.importorskip("soak")


def test_mixed_requests_at_four_times_capacity() -> None:
    pytest.importorskip("llguidance", reason="needs the extra `constrain`")
    one = engine(max_running=4)
    with listening(one, ServeConfig(queue_requests=4)) as url:
        tally = asyncio.run(soak.drive(url, 100, clients=32, seed=1))
        assert tally.wrong == []
        assert tally.done == 100 and tally.left > 5
        assert any(status == 429 for _, status in tally.statuses)
        assert soak.held(url) == {}
    assert one.stats().failures == 0
