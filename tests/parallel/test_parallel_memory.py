"""Memory runs out in one of several processes: the next start takes smaller pieces, ends alike."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from parallel_ranks import run_ranks
from parallel_small import UnevenRows, small_config
from test_parallel_trainer import SETTINGS, curve

from langwright.base import UserError, read_json, write_json
from langwright.model import build_model
from langwright.optim import OptimizerSet
from langwright.parallel import Alone, world
from langwright.train import TrainConfig, Trainer, language_model_loss
from langwright.train.smaller import FILE, give_up, read_smaller, write_smaller

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


class Filling:
    """The usual objective; after some calls no more than one row fits into one of the processes."""

    def __init__(self, rank: int, calls: int) -> None:
        self.rank, self.left = rank, calls

    def __call__(self, model: Any, batch: Any) -> Any:
        loss = language_model_loss(model, batch)
        self.left -= 1
        if self.left < 0 and batch.rows > 1 and world().rank == self.rank:
            raise RuntimeError(FULL)
        return loss


def train(folder: Path, parallel: dict[str, Any], objective: Any, **changes: Any) -> Any:
    options = {"evaluate_every": 0, "checkpoint_every": 1, **changes}
    config = TrainConfig.parse({**SETTINGS, **options, "parallel": parallel})
    model = build_model(small_config(), config.seed)
    trainer = Trainer(model, UnevenRows(), config, folder, objective=objective, quiet=True)
    return trainer.run()


def train_with(folder: Path, parallel: Any, objective: Any, changes: dict[str, Any]) -> Any:
    return train(folder, parallel, objective, **changes)


@pytest.mark.parametrize(
    ("rank", "parallel", "start", "changes"),
    [
        (1, {"dp_replicate": 2, "dp_shard": 1}, 4, {}),
        (0, {"tp": 2}, 8, {}),
        (1, {"dp_shard": 2}, 0, {"compile": "auto"}),  # while passes are measured
        pytest.param(1, {"dp_shard": 2}, 4, {}, marks=pytest.mark.slow),
        pytest.param(1, {"dp_shard": 2}, 0, {}, marks=pytest.mark.slow),  # in the first update
    ],
    ids=["ddp", "tp", "fsdp measuring", "fsdp", "fsdp at once"],
)
def test_the_next_start_takes_smaller_micro_batches(
    tmp_path: Path, rank: int, parallel: dict[str, Any], start: int, changes: dict[str, Any]
) -> None:
    alone, folder = tmp_path / "alone", tmp_path / "several"
    train(alone, {}, language_model_loss)
    said = "out of memory with 2 rows at a time; the next start takes 1"
    with pytest.raises(AssertionError, match=said) as caught:
        run_ranks(2, train_with, folder, parallel, Filling(rank, start), changes)
    assert f"process {rank} of 2" in str(caught.value) and "--max-restarts" in str(caught.value)
    assert read_json(folder / FILE)["micro_batch_rows"] == 1
    metrics = run_ranks(2, train_with, folder, parallel, Filling(rank, 0), changes)[
        0
    ]  # still no more than 1
    assert metrics["resumes"] == (1 if start else 0)
    choice = read_json(folder / "choices.json")["choices"]["micro_batch_rows"]
    assert choice == {"value": 1, "reason": "an earlier start ran out of memory with more"}
    found, wanted = curve(folder), curve(alone)
    assert [step for step, _ in found] == [step for step, _ in wanted] == list(range(1, 7))
    assert [v for _, v in found] == pytest.approx([v for _, v in wanted], abs=1e-6)


def train_with_full_moments(folder: Path) -> Any:
    """The second process has no room for the optimizer's state."""

    def step(self: OptimizerSet, *_: Any, **options: Any) -> None:
        raise RuntimeError(FULL)

    if world().rank == 1:
        OptimizerSet.step = step  # type: ignore[method-assign]
    return train(folder, {"dp_replicate": 2, "dp_shard": 1}, language_model_loss)


def test_no_room_for_moments_means_smaller_micro_batches_too(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the next start takes 1"):
        run_ranks(2, train_with_full_moments, tmp_path)
    assert read_json(tmp_path / FILE)["micro_batch_rows"] == 1


def test_the_least_number_stays_and_is_that_of_the_run(tmp_path: Path) -> None:
    path, form = tmp_path / FILE, Alone(None)  # type: ignore[arg-type]
    assert read_smaller(path, "run", form) is None
    for rows, least in ((8, 8), (2, 2), (4, 2)):
        write_smaller(path, "run", rows)
        assert read_smaller(path, "run", form) == least
    assert read_smaller(path, "another run", form) is None
    write_smaller(path, "another run", 16)
    assert read_smaller(path, "another run", form) == 16


def test_all_processes_take_the_least(tmp_path: Path) -> None:
    """Machines without a common folder: each process reads its own file."""
    assert run_ranks(2, _least, tmp_path) == [3, 3]


def _least(folder: Path) -> int | None:
    from langwright.parallel import ParallelConfig, layout, parallelise

    form = parallelise(small_config(), 0, layout(ParallelConfig.parse({}), world("cpu")))
    own = folder / str(world().rank) / FILE
    own.parent.mkdir()
    if world().rank == 1:
        write_json(own, {"key": "run", "micro_batch_rows": 3})
    return read_smaller(own, "run", form)


def test_a_single_row_is_said_to_be_too_much() -> None:
    left: list[int] = []
    form = Alone(None)  # type: ignore[arg-type]
    error = give_up(form, 1, left.append)
    assert isinstance(error, UserError) and "single row" in str(error) and not left
    assert "next start takes 3" in str(give_up(form, 5, left.append)) and left == [3]


SCRIPT = """\
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_parallel_memory import Filling, train
train(Path(sys.argv[1]), {"dp_shard": 2}, Filling(1, 4))
"""


@pytest.mark.slow
def test_torchrun_starts_again_with_smaller_micro_batches(tmp_path: Path) -> None:
    folder, script, here = tmp_path / "several", tmp_path / "script.py", Path(__file__).parent
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    places = [str(folder), str(here), str(here.parents[1])]
    done = subprocess.run(
        [sys.executable, *torchrun, *meeting, str(script), *places],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "out of memory with 2 rows at a time; the next start takes 1" in done.stderr
    train(tmp_path / "alone", {}, language_model_loss)
    found, wanted = curve(folder), curve(tmp_path / "alone")
    assert [step for step, _ in found] == [step for step, _ in wanted] == list(range(1, 7))
    assert [v for _, v in found] == pytest.approx([v for _, v in wanted], abs=1e-6)
