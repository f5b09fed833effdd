"""Exactness of resume: runs killed by SIGKILL at random moments, compared bit by bit.

A reference run trains without interruption. Then the same run is killed and started again, and
killed again, until it has been killed `--kills` times and is let through. Its final weights and
its losses must be those of the reference, to the last bit.

    python benchmarks/resume_exactness.py [--kills 20] [--precision fp32] [--compile]

Kills fall at random between the start of training and the usual end, so also into the writing of
checkpoints. A kill counts only if the process had not finished.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import CHECKOUT, finish, table

LENGTH, SYMBOLS = 64, 65


def run(folder: Path, precision: str, compiled: bool, steps: int) -> None:
    """In a child: train, or go on training, and write the result's hash at the end."""
    import numpy as np

    from langwright.dataset import RandomChunkRows
    from langwright.model import ModelConfig, build_model
    from langwright.train import TrainConfig, Trainer

    symbols = np.random.default_rng(0).integers(0, SYMBOLS, 100_000, dtype=np.uint16)
    config = ModelConfig.parse(
        {
            "vocab_size": SYMBOLS,
            "context_length": LENGTH,
            "width": 64,
            "layers": 2,
            "heads": 4,
            "dropout_residual": 0.1,
        }
    )
    settings = {
        "steps": steps,
        "batch_tokens": 16 * LENGTH,
        "micro_batch_rows": 8,
        "precision": precision,
        "compile": compiled,
        "optimizer": {"name": "muon"},
        "checkpoint_every": 10,
        "device": "cpu",
    }
    model = build_model(config, seed=0)
    rows = RandomChunkRows(symbols, LENGTH, seed=0)
    Trainer(model, rows, TrainConfig.parse(settings), folder, quiet=True).run()
    weights = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        weights.update(name.encode() + value.contiguous().numpy().tobytes())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines]
    assert [step for step, _ in losses] == list(range(1, steps + 1)), "a step twice, or missing"
    result = {"weights": weights.hexdigest(), "losses": losses}
    (folder / "result.json").write_text(json.dumps(result))


def start(folder: Path, options: argparse.Namespace, precision: str) -> subprocess.Popen[bytes]:
    """A child process that trains in `folder`."""
    command = [sys.executable, __file__, "--child", str(folder), "--steps", str(options.steps)]
    command += ["--precision", precision] + (["--compile"] if options.compile else [])
    environment = dict(os.environ, PYTHONPATH=str(CHECKOUT))
    return subprocess.Popen(command, env=environment)


def let_through(folder: Path, options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Run to the end."""
    if start(folder, options, precision).wait():
        raise SystemExit(f"training in {folder} failed")
    return json.loads((folder / "result.json").read_text())


def kill_once(folder: Path, delay: float, options: argparse.Namespace, precision: str) -> bool:
    """Start, wait until training is under way, kill `delay` seconds later; False if too late."""
    metrics = folder / "metrics.jsonl"
    before = metrics.stat().st_mtime_ns if metrics.exists() else 0
    process = start(folder, options, precision)
    while process.poll() is None:
        if metrics.exists() and metrics.stat().st_mtime_ns != before:
            break
        time.sleep(0.01)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def compare(options: argparse.Namespace, precision: str) -> dict[str, Any]:
    """Reference and killed runs in one precision."""
    with tempfile.TemporaryDirectory() as temporary:
        reference = let_through(Path(temporary) / "reference", options, precision)
        pause = random.Random(options.seed)
        kills, runs, identical, kills_in_run = 0, 0, 0, 0
        while kills < options.kills:
            folder = Path(temporary) / f"run-{runs}"
            folder.mkdir(exist_ok=True)
            if kill_once(folder, pause.uniform(0.0, options.longest), options, precision):
                kills, kills_in_run = kills + 1, kills_in_run + 1
                print(f"{precision}: kill {kills} of {options.kills}", file=sys.stderr)
                if kills < options.kills and kills_in_run < options.kills_per_run:
                    continue
            result = let_through(folder, options, precision)
            runs, kills_in_run = runs + 1, 0
            identical += result == reference
    return {"kills": kills, "runs": runs, "bit_identical": identical}


def main() -> None:
    """Compare in each precision and print the table."""
    parser = argparse.ArgumentParser(description="Exactness of resume.")
    parser.add_argument("--kills", type=int, default=20, help="in each precision")
    parser.add_argument("--kills-per-run", type=int, default=4, help="before a run may end")
    parser.add_argument("--longest", type=float, default=3.0, help="seconds before a kill, at most")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--precision", choices=["fp32", "bf16"], action="append")
    parser.add_argument("--compile", action="store_true", help="with compiled blocks")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    precisions = options.precision or ["fp32", "bf16"]
    if options.child:
        run(options.child, precisions[0], options.compile, options.steps)
        return
    results = {precision: compare(options, precision) for precision in precisions}
    rows = [[name, r["kills"], r["runs"], r["bit_identical"]] for name, r in results.items()]
    table("Resume after SIGKILL", ["precision", "kills", "runs", "bit-identical"], rows)
    finish("resume_exactness", {"results": results, "compiled": options.compile})
    if any(result["runs"] != result["bit_identical"] for result in results.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
