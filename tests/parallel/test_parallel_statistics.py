"""Statistics over processes are those of the whole model; only the first process writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_ranks import run_ranks
from parallel_small import UnevenRows, small_config
from test_parallel_trainer import SETTINGS as RUN
from test_parallel_trainer import train

from langwright.base import UserError, read_json
from langwright.model import Transformer
from langwright.parallel import world
from langwright.train import TrainConfig, Trainer, inspection, language_model_loss
from langwright.train.bad_batch import read_bad_batch

SETTINGS: dict[str, Any] = {"statistics_every": 3, "evaluate_every": 0}


def _statistics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "statistics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("parallel", [{"dp_shard": 2}, {"tp": 2}, {"pp": 2}, {"cp": 2}], ids=str)
def test_statistics_over_processes(tmp_path: Path, parallel: dict[str, Any]) -> None:
    train(tmp_path / "one", {}, **SETTINGS)
    run_ranks(2, _train, tmp_path / "two", parallel)
    one, two = _statistics(tmp_path / "one"), _statistics(tmp_path / "two")
    assert [r["step"] for r in one] == [r["step"] for r in two] == [3, 6]
    for a, b in zip(one, two):
        assert a["parameters"].keys() == b["parameters"].keys()
        for name, row in a["parameters"].items():
            for key, value in row.items():
                found = b["parameters"][name][key]
                assert found == pytest.approx(value, rel=1e-3, abs=1e-7), (name, key)
        assert a["activations"].keys() == b["activations"].keys()
        for name, row in a["activations"].items():
            if "dp_shard" not in parallel:  # there each process has other rows
                assert b["activations"][name] == pytest.approx(row, rel=1e-4, abs=1e-7), name


def _train(folder: Path, parallel: dict[str, Any]) -> Any:
    return train(folder, parallel, **SETTINGS)


def _asking(folder: Path, parallel: dict[str, Any]) -> None:
    """Requests by file: one before the run, one while update 4 is being made."""
    inspection.LOOK_SECONDS = 0.0
    if world().first:
        (folder / "statistics").touch()
    config = TrainConfig.parse({**RUN, "parallel": parallel, "evaluate_every": 0})
    with torch.device("meta"):
        model = Transformer(small_config())

    class Asking(Trainer):
        def _housekeeping(self, step: int) -> None:
            if world().first and step == 4:
                (folder / "statistics").touch()
            super()._housekeeping(step)

    Asking(model, UnevenRows(), config, folder, quiet=True, fresh=True).run()


@pytest.mark.parametrize("parallel", [{"dp_shard": 2}, {"tp": 2}, {"pp": 2}, {"cp": 2}], ids=str)
def test_statistics_by_request_over_processes(tmp_path: Path, parallel: dict[str, Any]) -> None:
    """The first process sees the request; all take part in the measured update."""
    by_request, by_config = tmp_path / "asked", tmp_path / "set"
    by_request.mkdir()
    run_ranks(2, _asking, by_request, parallel)
    run_ranks(2, _every, by_config, parallel)
    found, wanted = _statistics(by_request), _statistics(by_config)
    assert [record["step"] for record in found] == [1, 5]
    assert not (by_request / "statistics").exists()
    for record, right in zip(found, [wanted[0], wanted[4]], strict=True):
        for part in ("parameters", "activations"):
            assert record[part] == right[part]


def _every(folder: Path, parallel: dict[str, Any]) -> Any:
    return train(folder, parallel, statistics_every=1, evaluate_every=0)


class SpoiledAt:
    """The usual objective; infinite at the given calls, on every process."""

    def __init__(self, *calls: int) -> None:
        self.calls, self.bad = -1, calls

    def __call__(self, model: Any, batch: Any) -> Any:
        self.calls += 1
        loss_sum, weight = language_model_loss(model, batch)
        return loss_sum * (float("inf") if self.calls in self.bad else 1.0), weight


def _spoiled(folder: Path, limit: int) -> str | int:
    more = {"log_every": 50, "profile_at": 2, "profile_steps": 1}
    config = TrainConfig.parse({**RUN, "parallel": {"dp_shard": 2}, "max_bad_steps": limit, **more})
    with torch.device("meta"):
        model = Transformer(small_config())
    objective = SpoiledAt(4, 6)  # two micro-batches per update: updates 3 and 4
    trainer = Trainer(
        model, UnevenRows(), config, folder, objective=objective, quiet=True, fresh=True
    )
    try:
        return trainer.run()["non_finite_steps"]
    except UserError as error:
        return error.render()


def test_a_bad_batch_over_processes(tmp_path: Path) -> None:
    """All count it, the first one writes the whole batch down, and all stop together."""
    assert run_ranks(2, _spoiled, tmp_path / "a", 20) == [2, 2]
    about = read_json(tmp_path / "a" / "bad_batches" / "step-0000003.json")
    assert about["rows"] == [16, 23] and about["row_losses"] == []
    kept = read_bad_batch(tmp_path / "a" / "bad_batches" / "step-0000003.json")
    assert torch.equal(kept.inputs, UnevenRows().batch(16, 8).inputs)
    names = sorted(path.name for path in (tmp_path / "a" / "profiles").iterdir())
    assert names == ["step-0000002.json.gz", "step-0000002.txt"]
    errors = run_ranks(2, _spoiled, tmp_path / "b", 2)
    assert all("not finite in 2 updates in a row" in error for error in errors)
    assert (tmp_path / "b" / "bad_batches" / "step-0000004.json").exists()
