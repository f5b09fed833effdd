"""The loop over processes: what they report together, and what they agree on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from parallel_ranks import run_ranks
from parallel_small import small_config
from test_parallel_trainer import train

from langwright.model import flops_per_token
from langwright.parallel import world
from langwright.train import report


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def _with_peak(folder: Path, parallel: dict[str, Any], peaks: list[float]) -> Any:
    report.peak_rate = lambda choices: peaks[world().rank]
    return train(folder, parallel)[0]


@pytest.mark.parametrize("parallel", [{"dp_shard": 2}, {"tp": 2}], ids=["fsdp", "tp"])
def test_the_share_of_peak_is_of_all_processes(tmp_path: Path, parallel: dict[str, Any]) -> None:
    """All tokens of all processes against all that their devices could do."""
    peaks = [1e6, 3e6]  # FLOP/s; so low that rounding to four digits does not matter
    for metrics in run_ranks(2, _with_peak, tmp_path, parallel, peaks):
        rate = metrics["training_tokens_per_second"]
        wanted = rate * flops_per_token(small_config(), 16) / sum(peaks)
        assert metrics["mfu"] == pytest.approx(wanted, rel=1e-9)
    told = [line for line in lines(tmp_path) if "mfu" in line]
    assert len(told) == 6
    for line in told:
        wanted = line["tokens_per_second"] * flops_per_token(small_config(), 16) / sum(peaks)
        assert line["mfu"] == pytest.approx(wanted, rel=1e-3)
