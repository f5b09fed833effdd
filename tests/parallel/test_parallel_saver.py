"""The trainer's checkpoints with several processes: in the background, killed, broken, failing."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parallel_ranks import run_ranks
from parallel_small import UnevenRows, small_config
from safetensors import SafetensorError

from langwright.base import UserError
from langwright.formats import load_model
from langwright.model import Transformer, build_model
from langwright.optim import build
from langwright.parallel import checkpoint_storage, world
from langwright.train import (
    TrainConfig,
    Trainer,
    consolidate,
    language_model_loss,
    open_checkpoint,
)

SETTINGS: dict[str, Any] = {
    "steps": 12,
    "batch_tokens": 8 * 16,
    "micro_batch_rows": 4,
    "precision": "fp32",
    "compile": False,
    "checkpointing": "none",
    "lanes": 1,
    "device": "cpu",
    "seed": 3,
    "evaluate_every": 4,
    "checkpoint_every": 2,
    "optimizer": {"name": "muon", "lr": 3e-3, "eps": 1e-4},
}


class KillAt:
    """The usual objective, but a process dies at a call."""

    def __init__(self, rank: int, call: int | None) -> None:
        self.left = call if world().rank == rank else None

    def __call__(self, model: Any, batch: Any) -> Any:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return language_model_loss(model, batch)


def train(folder: Path, parallel: dict[str, Any], kill: Any = (0, None), **changes: Any) -> Any:
    """A run; (metrics, what was said, weights by name on the first process)."""
    config = TrainConfig.parse({**SETTINGS, "parallel": parallel, **changes})
    if world().size > 1:
        with torch.device("meta"):
            model = Transformer(small_config())
    else:
        model = build_model(small_config(), config.seed)
    trainer = Trainer(
        model,
        UnevenRows(),
        config,
        folder,
        valid={"held out": UnevenRows()},
        objective=KillAt(*kill),
        quiet=True,
        fresh=True,
    )
    told: list[str] = []
    trainer._say = told.append  # type: ignore[method-assign]
    metrics = trainer.run()
    weights = {n: p.detach() for n, p in model.named_parameters()} if world().first else {}
    return metrics, told, weights


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    assert [step for step, _ in found] == list(range(1, len(found) + 1))
    return dict(found)


def check_same(folder: Path, weights: Any, reference: Path, wanted: Any, limit: float) -> None:
    found, right = losses(folder), losses(reference)
    assert found.keys() == right.keys()
    np.testing.assert_allclose(list(found.values()), list(right.values()), rtol=0, atol=limit)
    for name, one in wanted.items():
        assert (weights[name] - one).abs().max() <= 10 * limit, name


@pytest.fixture(scope="module", autouse=True)
def _exact_products() -> Iterator[None]:
    """Muon's in fp32: in bf16 the rounding of another layout grows with every update, and where a
    killed run goes on from depends on the moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_product_dtype", lambda device: torch.float32)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """(folder, weights) of an undisturbed run of two processes."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run_ranks(2, train, folder, {"dp_shard": 2})[0][2]


def test_killed_processes_and_another_layout(tmp_path: Path, whole: tuple[Path, Any]) -> None:
    """Killed while checkpoints are being written; the same layout goes on to the bit, another one
    but for rounding."""
    fsdp, tp = {"dp_shard": 2}, {"tp": 2}
    reference, wanted = whole
    for victim, call in ((0, 7), (1, 3)):
        with pytest.raises(AssertionError):
            run_ranks(2, train, tmp_path / "cut", fsdp, (victim, call))
    shutil.copytree(tmp_path / "cut", tmp_path / "moved")
    metrics, _, weights = run_ranks(2, train, tmp_path / "cut", fsdp)[0]
    assert metrics["resumes"] >= 1  # those of which a checkpoint tells
    check_same(tmp_path / "cut", weights, reference, wanted, 0.0)
    metrics, _, weights = run_ranks(2, train, tmp_path / "moved", tp)[0]
    assert metrics["resumes"] >= 1  # those of which a checkpoint tells
    check_same(tmp_path / "moved", weights, reference, wanted, 5e-6)


def _full(folder: Path, failing: int) -> Any:
    """One process's disk is full at step 6."""
    real = checkpoint_storage.save_file

    def save(tensors: Any, path: Path) -> None:
        if world().rank == failing and "0000006" in str(path):
            path.write_bytes(b"half")
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        real(tensors, path)

    checkpoint_storage.save_file = save  # type: ignore[assignment]
    return train(folder, {"dp_shard": 2})


def test_a_full_disk_on_one_machine(tmp_path: Path, whole: tuple[Path, Any]) -> None:
    metrics, told, weights = run_ranks(2, _full, tmp_path, 1)[0]
    assert metrics["failed_saves"] == 1
    assert (
        "step 6 could not be saved (the disk is full): the last one is step-0000004; "
        "training goes on" in told
    )
    check_same(tmp_path, weights, *whole, 0.0)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["best", "step-0000010", "step-0000012"]


def test_damaged_checkpoints_are_passed_over(tmp_path: Path) -> None:
    """Whichever process finds the damage, all go on from the newest that is whole."""
    options = {"checkpoint_every": 1, "keep_last": 9}
    with pytest.raises(AssertionError):
        run_ranks(2, _with, tmp_path, (1, 8), options)
    found = sorted((tmp_path / "checkpoints").glob("step-*"))
    damage = {
        "model-00001.safetensors": "does not have the content",
        "model-00000.safetensors": "does not have the content",
        "pieces.json": "does not have the content",
        "state.json": "not valid JSON",
        "optimizer-00001.safetensors": " bytes, not ",
    }
    assert len(found) > len(damage)
    for folder, name in zip(reversed(found), damage, strict=False):
        data = bytearray((folder / name).read_bytes())
        data[-3] ^= 1
        (folder / name).write_bytes(data[:-1] if name.startswith("optimizer") else data)
    metrics, told, _ = run_ranks(2, _with, tmp_path, (0, None), options)[0]
    passed = [text for text in told if text.startswith("passing over ")]
    assert len(passed) == len(damage)
    for text, folder, reason in zip(passed, reversed(found), damage.values(), strict=False):
        assert folder.name in text and reason in text
    step = int(found[-1 - len(damage)].name[-7:])
    assert any(text.startswith(f"going on from step {step:,} ") for text in told), told
    assert metrics["steps"] == 12 and len(losses(tmp_path)) == 12


def _with(folder: Path, kill: Any, options: Any) -> Any:
    return train(folder, {"dp_shard": 2}, kill, **options)


def test_the_best_model_comes_from_all_processes(tmp_path: Path) -> None:
    """The best weights are saved in pieces, and are the result if that is wanted."""
    options = {"final": "best", "steps": 8, "evaluate_every": 2}
    metrics, _, weights = run_ranks(2, _best, tmp_path / "two", options)[0]
    best = open_checkpoint(tmp_path / "two" / "checkpoints" / "best")
    assert best.state["step"] == metrics["best_step"] < 8
    assert sorted(p.name for p in best.path.glob("optimizer*")) == []
    for name, one in best.weights().items():
        assert torch.equal(weights[name], one)
    consolidate(best.path, tmp_path / "model")
    loaded = dict(load_model(tmp_path / "model", dtype=torch.float32).named_parameters())
    assert loaded.keys() == weights.keys()
    for name, one in weights.items():
        assert torch.equal(loaded[name], one)


def _best(folder: Path, options: Any) -> Any:
    """A rate so high that validation only gets worse."""
    adamw = {"name": "adamw", "lr": 0.5, "eps": 1e-4}
    parallel = {"dp_shard": world().size}
    return train(folder, parallel, **options, optimizer=adamw, schedule={"warmup_steps": 7})


def _unwritable(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        train(folder, {"dp_shard": 2})
    return caught.value.message


def test_a_folder_that_cannot_be_written_is_told_to_all(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in its place")
    for message in run_ranks(2, _unwritable, tmp_path):
        assert message.startswith("checkpoints cannot be written here")


def _blocked(kind: str, folder: Path) -> Path:
    """A place for a run where nothing can be written, not even by root."""
    if kind == "file":
        (folder / "run").write_text("a file in the way")
        return folder / "run"
    if kind == "below a file":
        (folder / "file").write_text("a file in the way")
        return folder / "file" / "run"
    if not Path("/proc/sys").is_dir():
        pytest.skip("/proc/sys, where no file can be made, is not there")
    return Path("/proc/sys")


@pytest.mark.parametrize("kind", ["file", "below a file", "folder"])
def test_a_run_that_cannot_be_written_is_refused_by_all(tmp_path: Path, kind: str) -> None:
    """Before anything is measured or written; nobody waits for the first process."""
    place = _blocked(kind, tmp_path)
    for message in run_ranks(2, _unwritable, place):
        assert message.startswith("the run cannot be written here: ")
    assert not (place / "choices.json").exists()


def _one_cannot(folder: Path) -> str:
    """Only the second process cannot write: another machine's disk."""
    real = Path.write_bytes

    def write(path: Path, data: bytes) -> int:
        if world().rank == 1:
            raise OSError(30, "Read-only file system")
        return real(path, data)

    Path.write_bytes = write  # type: ignore[assignment,method-assign]
    return _unwritable(folder)


def test_a_folder_that_one_process_cannot_write(tmp_path: Path) -> None:
    for message in run_ranks(2, _one_cannot, tmp_path):
        assert message == "the run cannot be written here: Read-only file system"
