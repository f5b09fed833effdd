"""A run that was given a time, over processes whose clocks disagree: all shorten it alike."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_ranks import run_ranks
from parallel_small import UnevenRows, small_config

from langwright.base import read_json
from langwright.model import Transformer
from langwright.parallel import world
from langwright.train import TrainConfig, Trainer, choosing, language_model_loss, report

SETTINGS: dict[str, Any] = {
    "minutes": 62 / 60,
    "batch_tokens": 8 * 16,
    "micro_batch_rows": 4,  # a forward pass for each update and process
    "precision": "fp32",
    "compile": False,
    "checkpointing": "none",
    "lanes": 1,
    "device": "cpu",
    "checkpoint_minutes": 100.0,
    "parallel": {"dp_shard": 2},
}


def _slowed(folder: Path, paces: list[tuple[float, float]]) -> Any:
    """A run planned as 60 updates of 1 s; a process's first 20 take paces[rank][0], the others
    paces[rank][1] seconds. Returns what became of it."""
    now, passes = 0.0, 0
    quick, slow = paces[world().rank]

    def objective(model: Any, batch: Any) -> Any:
        nonlocal now, passes
        passes += torch.is_grad_enabled()
        now += quick if passes <= 20 else slow
        return language_model_loss(model, batch)

    # This process was forked for the test, and ends with it.
    time.perf_counter = lambda: now  # type: ignore[assignment]
    choosing.choose_steps_for_time = lambda left, extra, choices, probe: choices.decide(
        "total_steps", 60, "test"
    )
    choosing.peak_rate = report.peak_rate = lambda choices: None  # a clock at rest measures nothing
    with torch.device("meta"):
        model = Transformer(small_config())
    config = TrainConfig.parse(SETTINGS)
    trainer = Trainer(
        model, UnevenRows(), config, folder, objective=objective, quiet=True, fresh=True
    )
    metrics = trainer.run()
    plan = trainer.setup.timeline
    made = [[one.step, one.change.what, one.reason] for one in trainer.setup.changes.made]
    places = [plan.place(step) for step in range(plan.total_steps)]
    return metrics["steps"], passes, metrics["seconds"], places, made


@pytest.mark.parametrize("other", [(0.01, 0.01), (1.0, 9.0)], ids=["quicker", "slower"])
def test_what_the_first_process_measures_counts_for_all(
    tmp_path: Path, other: tuple[float, float]
) -> None:
    first, second = run_ranks(2, _slowed, tmp_path, [(1.0, 3.0), other])
    steps, passes, seconds, places, made = first
    assert made and steps == passes == len(places) < 45
    assert 58 <= seconds <= 1.05 * 62
    assert (second[0], second[1]) == (steps, passes)
    assert second[3:] == (places, made)
    kept = [[k["step"], k["change"], k["reason"]] for k in read_json(tmp_path / "changes.json")]
    assert kept == made


def test_the_first_process_may_be_in_time_while_another_is_not(tmp_path: Path) -> None:
    """Their updates wait for one another; only one clock decides."""
    for steps, passes, *_, made in run_ranks(2, _slowed, tmp_path, [(1.0, 1.0), (1.0, 9.0)]):
        assert steps == passes == 60 and made == []
