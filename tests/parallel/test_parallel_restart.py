"""A process of many dies: torchrun starts all again, and the run goes on by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_parallel_command import RECIPE, ROOT

from langwright.cli import main

STEPS = 120


def start(folder: Path, recipe: Path, log: Path) -> subprocess.Popen[bytes]:
    """`langwright run` with two processes that may be started again twice."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command = ["-m", "langwright", "run", str(recipe), "--runs", str(folder)]
    return subprocess.Popen(
        [sys.executable, *torchrun, *meeting, *command],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=open(log, "wb"),
        start_new_session=True,
    )


def worker(parent: int, rank: int) -> int:
    """The process id of torchrun's child with this rank."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            above = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if above == parent and f"RANK={rank}\0" in "\0" + (place / "environ").read_text():
                return int(place.name)
        except OSError:  # it has ended meanwhile
            continue
    raise AssertionError(f"torchrun {parent} has no process of rank {rank}")


def wait_for(ready: Path, step: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until a checkpoint of at least `step` is there."""
    until = time.monotonic() + 200
    while not any(int(p.name[-7:]) >= step for p in ready.glob("step-*")):
        assert process.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.01)


def curve(folder: Path) -> list[tuple[int, float]]:
    lines = (folder / "tiny" / "pretrain" / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [(r["step"], r["loss"]) for r in records if "loss" in r]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_torchrun_goes_on_after_each_process_was_killed(tmp_path: Path) -> None:
    """The last process is killed, then, after the restart, the first: the curve is the same."""
    text = "the cat sat on a mat and then it ran far away from every dog in this town. "
    (tmp_path / "text").mkdir()
    for i in range(40):
        (tmp_path / "text" / f"{i}.txt").write_text(f"{i} " + text * (4 + i % 5))
    recipe = RECIPE.format(corpus=str(tmp_path / "text"))
    recipe = recipe[: recipe.index("[sft]")] + recipe[recipe.index("[evaluate]") :]
    changed = recipe.replace("steps = 6", f"steps = {STEPS}\ncheckpoint_every = 5")
    (tmp_path / "tiny.toml").write_text(changed)
    for name in ("whole", "cut"):
        log = tmp_path / f"{name}.log"
        process = start(tmp_path / name, tmp_path / "tiny.toml", log)
        try:
            if name == "cut":
                checkpoints = tmp_path / name / "tiny" / "pretrain.partial" / "checkpoints"
                for rank, step in ((1, 20), (0, 60)):
                    wait_for(checkpoints, step, process, log)
                    os.kill(worker(process.pid, rank), signal.SIGKILL)
                    time.sleep(0.5)
            assert process.wait(300) == 0, log.read_text()[-3000:]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    told = (tmp_path / "cut.log").read_text()
    assert told.count("going on from step") == 2, told[-3000:]
    whole, cut = curve(tmp_path / "whole"), curve(tmp_path / "cut")
    assert [step for step, _ in cut] == list(range(1, STEPS + 1))
    assert cut == whole
    newest = tmp_path / "cut" / "tiny" / "pretrain" / "checkpoints" / f"step-{STEPS:07d}"
    export = ["export", str(newest), "--to", "hf", "--out", str(tmp_path / "out")]
    assert main(export) == 0
    for name in ("model.safetensors", "tokenizer.json"):
        result = tmp_path / "whole" / "tiny" / "model" / name
        assert (tmp_path / "out" / name).read_bytes() == result.read_bytes()
