"""The same command under torchrun: the first process leads, the others join in where it trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from parallel_ranks import run_ranks

import langwright
from langwright.parallel import ParallelConfig, announce, follow, leading, world

ROOT = Path(langwright.__file__).parents[1]
RECIPE = """\
name = "tiny"
seed = 3
[corpus]
sources = [{corpus!r}]
[tokenizer]
vocab_size = 300
[dataset]
sequence_length = 32
[model]
preset = "qwen3-2m"
width = 32
layers = 2
heads = 2
kv_heads = 2
hidden_width = 64
[pretrain]
steps = 6
batch_tokens = 256
micro_batch_rows = 2
precision = "fp32"
compile = false
evaluate_rows = 4
[sft]
steps = 2
batch_tokens = 256
precision = "fp32"
compile = false
[evaluate]
max_heldout_bytes = 2000
classics_train_bytes = 20000
samples = 1
sample_tokens = 4
questions = 2
answer_tokens = 4
"""


def called(config: ParallelConfig, folder: Path, name: str | None, count: int) -> None:
    """Leaves a note of its arguments."""
    note = [type(config).__name__, config.tp, str(folder), type(folder).__name__, name, count]
    (folder / f"call-{world().rank}").write_text(json.dumps(note))


def lead_or_follow(folder: Path) -> int:
    if world().first:
        with leading(world()):
            announce("called", config=ParallelConfig(tp=2), folder=folder, name=None, count=3)
        announce("called", config=ParallelConfig(), folder=folder, name=None, count=4)  # no effect
        return 0
    follow({"called": called})
    return 1


def test_announced_calls_reach_the_others_with_their_types(tmp_path: Path) -> None:
    assert run_ranks(3, lead_or_follow, tmp_path) == [0, 1, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["call-1", "call-2"]
    note = json.loads((tmp_path / "call-2").read_text())
    kind = type(tmp_path).__name__
    assert note == ["ParallelConfig", 2, str(tmp_path), kind, None, 3]


PROGRAM = """
import atexit, sys
from langwright import cli

atexit.register(lambda: print("goodbye"))
cli.main = lambda: print("done") or 3
cli.command()
"""


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_says_goodbye_and_ends_with_its_code(processes: int) -> None:
    """What was printed is written and what was registered is done, though one of several processes
    leaves without taking the interpreter down: objects that live to the end are not destroyed."""
    last = "class Last:\n    def __del__(self): print('taken down', flush=True)\nlast = Last()\n"
    done = subprocess.run(
        [sys.executable, "-c", last + PROGRAM],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "",  # what was printed waits to be written
            "WORLD_SIZE": str(processes),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 3, done.stderr
    assert done.stdout.split("\n")[:2] == ["done", "goodbye"]
    assert ("taken down" in done.stdout) == (processes == 1)


def command(folder: Path, processes: int, *settings: str) -> subprocess.CompletedProcess[str]:
    """`langwright run` on the recipe, with so many processes."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    start = [*torchrun, "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    changes = [part for setting in settings for part in ("--set", setting)]
    return subprocess.run(
        [sys.executable, *(start if processes > 1 else []), "-m", "langwright", "run",
         str(folder / "tiny.toml"), "--runs", str(folder / f"runs-{processes}"), *changes],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )  # fmt: skip


@pytest.mark.slow
def test_a_recipe_under_torchrun(tmp_path: Path) -> None:
    """A whole recipe with two processes: every stage once, and the losses of one process."""
    text = "the cat sat on a mat and then it ran far away from every dog in this town. "
    (tmp_path / "text").mkdir()
    for i in range(40):
        (tmp_path / "text" / f"{i}.txt").write_text(f"{i} " + text * (4 + i % 5))
    chats = [
        {"messages": [{"role": "user", "content": f"say {i}"},
                      {"role": "assistant", "content": f"{i} it is"}]}
        for i in range(30)
    ]  # fmt: skip
    lines = "\n".join(json.dumps(chat) for chat in chats)
    (tmp_path / "text" / "chats.jsonl").write_text(lines + "\n")
    (tmp_path / "tiny.toml").write_text(RECIPE.format(corpus=str(tmp_path / "text")))
    losses: dict[int, Any] = {}
    for processes in (1, 2):
        done = command(tmp_path, processes)
        assert done.returncode == 0, done.stderr[-3000:]
        folder = tmp_path / f"runs-{processes}" / "tiny"
        assert (folder / "report.html").exists() and (folder / "model" / "config.json").exists()
        for stage in ("pretrain", "sft"):
            metrics = json.loads((folder / stage / "manifest.json").read_text())["metrics"]
            losses[processes, stage] = metrics["train_loss"]
        if processes == 2:
            assert done.stderr.count("2 processes: dp_shard 2") == 2  # pretrain and sft, told once
    for stage in ("pretrain", "sft"):
        assert losses[2, stage] == pytest.approx(losses[1, stage], abs=1e-4)


@pytest.mark.slow
def test_a_mistake_under_torchrun_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE.format(corpus=str(tmp_path / "nowhere")))
    done = command(tmp_path, 2)
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1 and "nowhere" in done.stderr
