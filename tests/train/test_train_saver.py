"""Checkpoints in the background, on full or read-only disks, and what is kept."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from train_small import (
    PatternRows,
    run_with_kills,
    same_weights,
    small_model,
    small_trainer,
    weights_of,
)

from langwright.base import UserError
from langwright.optim import OptimConfig, build_optimizer
from langwright.parallel import Alone
from langwright.train import TrainConfig, Trainer, checkpoint, newest_checkpoint, open_checkpoint
from langwright.train.checkpoint import clear_leftovers, keep_newest, save_checkpoint
from langwright.train.saver import Saver


def loud_trainer(folder: Path, model: Any, told: list[str], **changes: Any) -> Trainer:
    trainer = small_trainer(folder, model, **changes)
    trainer._say = told.append  # type: ignore[method-assign]
    return trainer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_checkpoint_is_of_its_own_step_though_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """The writer is held up until the next update is made: it must not see that one."""
    settings = {
        "steps": 6,
        "checkpoint_every": 2,
        "keep_last": 9,
        "optimizer": {"name": optimizer},
        "evaluate_every": 2,
        "valid": {"held out": PatternRows(seed=1, epoch_rows=8)},
    }
    small_trainer(tmp_path / "now", **settings).run()
    updated = threading.Event()
    waits: list[bool] = []
    real_save, real_update = checkpoint.save_file, Trainer._housekeeping

    def late_save(tensors: Any, path: Any) -> None:
        if threading.current_thread() is not threading.main_thread() and not waits:
            waits.append(updated.wait(20))
        real_save(tensors, path)

    def housekeeping(self: Trainer, step: int) -> None:
        if step == 3:
            updated.set()
        real_update(self, step)

    monkeypatch.setattr(checkpoint, "save_file", late_save)
    monkeypatch.setattr(Trainer, "_housekeeping", housekeeping)
    small_trainer(tmp_path / "later", checkpoint_async=True, **settings).run()
    assert waits == [True]
    assert names(tmp_path / "now") == names(tmp_path / "later")
    assert names(tmp_path / "now") == ["best", *(f"step-{s:07d}" for s in (2, 4, 6))]
    for name in names(tmp_path / "now"):
        one, two = (open_checkpoint(tmp_path / w / "checkpoints" / name) for w in ("now", "later"))
        assert same_weights(one.weights(), two.weights())
        assert one.state["step"] == two.state["step"]
        if name != "best":
            assert same_weights(one.optimizer()["tensors"], two.optimizer()["tensors"])
            assert one.optimizer()["scalars"] == two.optimizer()["scalars"]


def test_the_best_model_is_copied_after_the_last_one_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are copied to the same memory. And it is read back when it has been written."""
    first, then, real = threading.Event(), threading.Event(), checkpoint.save_file
    files: list[Path] = []

    def late(tensors: Any, path: Any) -> None:
        files.append(path)
        (first if len(files) <= 2 else then).wait(20)  # weights and optimizer; the best weights
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", late)
    model, told = small_model(), []
    optimizer = build_optimizer(model, OptimConfig())
    config = TrainConfig.parse({"checkpoint_async": True})
    saver = Saver(tmp_path, Alone(model), optimizer, config, told.append)
    before = weights_of(model)
    saver.save(1, {"step": 1})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    threading.Timer(0.2, first.set).start()
    saver.save_best(2, {"valid_loss": 1.0})
    best = weights_of(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    threading.Timer(0.2, then.set).start()
    assert saver.restore_best() == 2
    assert same_weights(weights_of(model), best)
    saver.close()
    assert not told and len(files) == 3
    assert same_weights(open_checkpoint(tmp_path / "step-0000001").weights(), before)


def test_killed_while_saving_in_the_background(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 40, "checkpoint_every": 3, "checkpoint_async": True}
    whole = run_with_kills(tmp_path / "whole", [], **settings)
    cut = run_with_kills(tmp_path / "cut", [(15, 0.0), (22, 0.004), (9, 0.01)], **settings)
    assert same_weights(whole, cut)


FAILURES = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    SafetensorError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"),
]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("failure", FAILURES, ids=["os", "safetensors"])
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception, background: bool
) -> None:
    """Saves of steps 6 and 8 fail; the run ends as undisturbed, and could have been resumed."""
    whole, cut = small_model(), small_model()
    settings = {"steps": 10, "checkpoint_every": 2, "checkpoint_async": background}
    small_trainer(tmp_path / "whole", whole, **settings).run()
    left: list[list[str]] = []
    real = checkpoint.save_file

    def save(tensors: Any, path: Path) -> None:
        if "0000006" in str(path) or "0000008" in str(path):
            path.write_bytes(b"half")
            raise failure
        left.append(names(tmp_path / "cut"))
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save)
    told: list[str] = []
    metrics = loud_trainer(tmp_path / "cut", cut, told, **settings).run()
    assert metrics["failed_saves"] == 2
    assert same_weights(weights_of(whole), weights_of(cut))
    complaints = [text for text in told if "could not be saved" in text]
    assert complaints == [
        f"step {step} could not be saved (the disk is full): the last one is step-0000004; "
        "training goes on"
        for step in (6, 8)
    ]
    assert left[-1] == [".step-0000010.partial", "step-0000004"]  # 2 had to make room
    assert names(tmp_path / "cut") == ["step-0000004", "step-0000010"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, in main memory."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        pytest.skip("only an administrator can mount a file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("background", [False, True])
def test_a_disk_that_is_really_full(small_disk: Path, background: bool) -> None:
    """Two checkpoints fit on it and not a third; a run that is killed there goes on."""
    told: list[str] = []
    settings = {"checkpoint_every": 2, "checkpoint_async": background, "keep_last": 5}
    loud_trainer(small_disk / "run", small_model(), told, steps=12, **settings).run()
    assert sum("the disk is full" in text for text in told) >= 2
    found = newest_checkpoint(small_disk / "run" / "checkpoints", told.append)
    assert found is not None and found.state["step"] >= 10
    whole = small_model()
    small_trainer(small_disk.parent / "whole", whole, steps=12, **settings).run()
    model = small_model()
    small_trainer(small_disk / "run", model, steps=12, **settings).run()
    assert same_weights(weights_of(whole), weights_of(model))


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").write_text("a file in its place")
    with pytest.raises(UserError, match="checkpoints cannot be written here"):
        small_trainer(tmp_path / "run").run()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def some_checkpoint(folder: Path, step: int) -> Path:
    model = small_model()
    return save_checkpoint(folder, step, model, {"tensors": {}, "scalars": {}}, {})


def test_steps_that_are_kept_for_good(tmp_path: Path) -> None:
    for step in range(1, 9):
        some_checkpoint(tmp_path, step)
        keep_newest(tmp_path, 2, 3)
    assert [p.name[-1] for p in sorted(tmp_path.iterdir())] == ["3", "6", "7", "8"]
    folder = tmp_path / "run"
    small_trainer(folder, steps=8, keep_every=3, keep_last=1).run()
    assert names(folder) == [f"step-{step:07d}" for step in (3, 6, 8)]
    assert TrainConfig.parse({}).keep_every is None


def test_killed_between_the_renames_nothing_is_lost(tmp_path: Path) -> None:
    """A new checkpoint that was whole takes its place; else the one it was to replace comes back;
    what is not whole goes."""
    for case in ("new", "old"):
        folder = tmp_path / case
        path = some_checkpoint(folder, 5)
        old = folder / ".step-0000005.old.partial"
        path.rename(old)
        half = folder / ".step-0000005.partial"
        if case == "new":
            some_checkpoint(tmp_path / "other", 5).rename(half)
            (half / "mark").touch()
        else:
            half.mkdir()
        clear_leftovers(folder)
        assert [p.name for p in folder.iterdir()] == ["step-0000005"]
        assert (path / "mark").exists() == (case == "new")
        assert open_checkpoint(path).state["step"] == 5


class LookingRows(PatternRows):
    """Notes which checkpoints there are whenever an evaluation reads from it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(seed=1, epoch_rows=8)
        self.folder = folder
        self.seen: list[str] = []

    def gather(self, indices: Any) -> Any:
        self.seen.append(max((name for name in names(self.folder) if "step" in name), default=""))
        return super().gather(indices)


@pytest.mark.parametrize("due", [(True, True), (False, True)], ids=["save", "look saves"])
def test_a_save_comes_before_the_evaluation_of_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, due: tuple[bool, bool]
) -> None:
    """A kill in a long evaluation loses no update: also where only the evaluation makes it due."""
    monkeypatch.setattr(Saver, "due", lambda saver, step: due)
    valid = LookingRows(tmp_path)
    small_trainer(tmp_path, steps=6, evaluate_every=2, valid={"held out": valid}).run()
    assert valid.seen == ["step-0000002", "step-0000004", "step-0000006"]
