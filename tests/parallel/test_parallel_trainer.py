"""The whole trainer over processes: the same curve, one writer, resumption under another layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from parallel_ranks import run_ranks
from parallel_small import UnevenRows, small_config

from langwright.base import UserError
from langwright.model import Transformer, build_model
from langwright.parallel import World, layout, world
from langwright.train import TrainConfig, Trainer, language_model_loss

pytestmark = [pytest.mark.parallel, pytest.mark.sample]
SETTINGS: dict[str, Any] = {
    "steps": 6,
    "batch_tokens": 8 * 16,
    "micro_batch_rows": 2,
    "precision": "fp32",
    "compile": False,
    "checkpointing": "none",
    "lanes": 1,
    "device": "cpu",
    "seed": 3,
    "evaluate_every": 2,
    "optimizer": {"lr": 3e-3, "eps": 1e-4},
    "schedule": {"kind": "linear", "warmup_steps": 2},
}


class Stop(Exception):
    """Ends a run in the middle."""


class StopAt:
    """The usual objective, but it ends the run at a call."""

    def __init__(self, call: int | None) -> None:
        self.left = call

    def __call__(self, model: Any, batch: Any) -> Any:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise Stop
        return language_model_loss(model, batch)


def train(
    folder: Path,
    parallel: dict[str, Any],
    stop: int | None = None,
    shape: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    """A run in `folder` by all processes; (metrics, weights), or None where it was ended."""
    config = TrainConfig.parse({**SETTINGS, "parallel": parallel, **changes})
    if world().size > 1:
        with torch.device("meta"):
            model = Transformer(small_config(**(shape or {})))
    else:
        model = build_model(small_config(**(shape or {})), config.seed)
    trainer = Trainer(
        model,
        UnevenRows(),
        config,
        folder,
        valid={"held out": UnevenRows()},
        objective=StopAt(stop),
        quiet=True,
        fresh=True,
    )
    try:
        metrics = trainer.run()
    except Stop:
        return None
    if not world().first:
        return metrics, {}
    return metrics, {name: p.detach() for name, p in model.named_parameters()}


def curve(folder: Path) -> list[tuple[int, float]]:
    """(step, loss or validation loss) of all lines of metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("loss", line.get("valid_loss"))) for line in lines]


def check_same(folder: Path, weights: Any, reference: Path, wanted: Any) -> None:
    found, right = curve(folder), curve(reference)
    assert [step for step, _ in found] == [step for step, _ in right]
    assert [v for _, v in found] == pytest.approx([v for _, v in right], abs=5e-6)
    assert weights.keys() == wanted.keys()
    for name, one in wanted.items():
        assert (weights[name] - one).abs().max() < 2e-5, name


LAYOUTS: list[dict[str, Any]] = [
    {"dp_replicate": 2, "dp_shard": 1},
    {"dp_shard": 2},
    {"tp": 2},
    {"cp": 2},
    {"pp": 2},
]


@pytest.mark.parametrize("parallel", LAYOUTS, ids=["ddp", "fsdp", "tp", "cp", "pp"])
def test_a_run_over_processes_equals_one_process(tmp_path: Path, parallel: dict[str, Any]) -> None:
    alone, several = tmp_path / "alone", tmp_path / "several"
    _, wanted = train(alone, {})
    results = run_ranks(2, train, several, parallel)
    metrics, weights = results[0]
    check_same(several, weights, alone, wanted)
    assert metrics["steps"] == 6 and metrics["parameters"] == sum(
        w.numel() for w in wanted.values()
    )
    assert results[1][1] == {}
    assert sorted(p.name for p in several.iterdir()) == sorted(p.name for p in alone.iterdir())


def test_going_on_under_other_layouts(tmp_path: Path) -> None:
    """2 processes (FSDP) -> 2 (TP) -> 4 (both) -> 1, each ended in the middle of a step."""
    alone, folder = tmp_path / "alone", tmp_path / "moved"
    _, wanted = train(alone, {}, optimizer={"name": "adamw", "lr": 3e-3, "eps": 1e-4})
    options = {"checkpoint_every": 1}
    assert run_ranks(2, _ended, folder, {"dp_shard": 2}, 5, options)  # 2 micro-batches a step
    assert run_ranks(2, _ended, folder, {"tp": 2}, 9, options)  # 4 micro-batches a step
    assert run_ranks(4, _ended, folder, {"tp": 2, "dp_shard": 2}, 2, options)
    metrics, weights = train(folder, {}, **options)
    assert metrics["resumes"] == 3
    check_same(folder, weights, alone, wanted)


def _ended(folder: Path, parallel: dict[str, Any], stop: int, options: dict[str, Any]) -> bool:
    assert train(folder, parallel, stop, **options) is None
    return True


def test_a_batch_that_cannot_be_shared_out_evenly_is_refused(tmp_path: Path) -> None:
    for error in run_ranks(2, _refused, tmp_path):
        assert "batch_tokens" in error and "multiple of 32 tokens" in error


def _refused(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        train(folder, {"dp_shard": 2}, batch_tokens=3 * 16)
    return str(caught.value)


def test_degrees_need_processes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 processes cannot be shared out so"):
        train(tmp_path, {"tp": 2})
    assert layout(TrainConfig.parse(SETTINGS).parallel, World()).alone
