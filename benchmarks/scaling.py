"""Scaling from one process to two: DDP and FSDP on gloo beside more threads in one process.

The 10.6M Llama-shaped model, bf16, one batch of equal size for all (strong scaling), through
`Trainer` and its `parallel` section; two processes are started by torchrun:

- one process with one thread: the measure
- two processes with a thread each: dp_replicate = 2 (DDP), dp_shard = 2 (FSDP2)
- one process with two threads: each operation over both cores, and two lanes

    python benchmarks/scaling.py [--size 10m] [--rows 64] [--steps 4] [--rounds 1]

Efficiency is the speed over twice that of one thread. The limit is what two cores can do together:
bf16 matrix products in two processes at a time, over those of one alone (cores share clock, caches
and memory, and may be two halves of one).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import CHECKOUT, child, finish, table

# name: (title, processes, threads of each, fields of TrainConfig)
WAYS: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "one": ("1 process, 1 thread", 1, 1, {"lanes": 1}),
    "ddp": ("2 processes, DDP", 2, 1, {"parallel": {"dp_replicate": 2, "dp_shard": 1}}),
    "fsdp": ("2 processes, FSDP2", 2, 1, {"parallel": {"dp_shard": 2}}),
    "threads": ("1 process, 2 threads", 1, 2, {"lanes": 1}),
    "lanes": ("1 process, 2 lanes", 1, 2, {"lanes": 2}),
}
MATMUL_SECONDS = 2.0
RESULT = "result.json"  # of the first of many processes


def train(way: str, size: str, rows: int, steps: int, folder: Path) -> dict[str, Any]:
    """One way, in this process or, where it takes two, in this one of them; all share `folder`."""
    import contenders

    settings = {
        "precision": "bf16",
        "compile": False,
        "checkpointing": "none",
        "micro_batch_rows": max(1, rows // 4),
        "device": "cpu",
        **WAYS[way][3],
    }
    contenders.train_ours(contenders.SHAPES[size], rows, steps, settings, folder)
    if os.environ.get("RANK", "0") != "0":  # the first one writes
        return {}
    return {"tokens_per_second": contenders.rate_of(folder)}


def under_torchrun(arguments: list[str], processes: int) -> dict[str, Any]:
    """Start this script in several processes; what the first one of them reports."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / RESULT
        command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend", "c10d"]
        command += ["--rdzv-endpoint", "localhost:0", "--nproc-per-node", str(processes)]
        command += [str(Path(__file__).resolve()), *arguments, "--folder", folder]
        done = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT)
        if done.returncode or not result.exists():
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
        return json.loads(result.read_text(encoding="utf-8"))


def matmul_together(processes: int) -> dict[str, Any]:
    """FLOP/s of bf16 products of (1024, 1024), of so many processes with a thread each."""
    import torch  # noqa: F401 (before the fork)

    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(processes), context.Queue()
    places = [context.Process(target=_multiply, args=(barrier, results)) for _ in range(processes)]
    for place in places:
        place.start()
    rates = [results.get(timeout=60) for _ in places]
    for place in places:
        place.join()
    return {"matmul_rate": sum(rates)}


def _multiply(barrier: Any, results: Any) -> None:
    import torch

    torch.set_num_threads(1)
    left, right = (torch.randn(1024, 1024).bfloat16() for _ in range(2))
    torch.mm(left, right)
    barrier.wait()
    begun, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - begun) < MATMUL_SECONDS:
        torch.mm(left, right)
        count += 1
    results.put(2 * 1024**3 * count / spent)


def run_child(options: argparse.Namespace) -> dict[str, Any]:
    """What --child names."""
    if options.child.startswith("matmul"):
        return matmul_together(int(options.child[-1]))
    task = (options.size, options.rows, options.steps)
    processes = WAYS[options.child][1]
    if options.folder:
        return train(options.child, *task, options.folder)
    if processes == 1:
        with tempfile.TemporaryDirectory() as folder:
            return train(options.child, *task, Path(folder))
    names = ("--size", "--rows", "--steps")
    arguments = [str(part) for pair in zip(names, task) for part in pair]
    return under_torchrun(["--child", options.child, *arguments], processes)


def main() -> None:
    """Measure each way in turn and print the table."""
    parser = argparse.ArgumentParser(description="Scaling from one process to two.")
    parser.add_argument("--size", choices=("tiny", "10m"), default="10m")
    parser.add_argument("--rows", type=int, default=64, help="rows of a batch, all processes'")
    parser.add_argument("--steps", type=int, default=4, help="updates; the first is not timed")
    parser.add_argument("--rounds", type=int, default=1, help="turns each way takes")
    parser.add_argument("--child", choices=[*WAYS, "matmul1", "matmul2"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        line = json.dumps(run_child(options))
        if options.folder is None:
            print(line)
        elif os.environ["RANK"] == "0":
            (options.folder / RESULT).write_text(line, encoding="utf-8")
        return
    if options.rows % 8 or options.steps < 2:
        parser.error("--rows must be a multiple of 8, and --steps at least 2")

    script = Path(__file__).name
    matmul = {1: 0.0, 2: 0.0}
    rates = dict.fromkeys(WAYS, 0.0)
    for _ in range(options.rounds):
        for count, before in matmul.items():
            rate = child(script, "--child", f"matmul{count}", threads=1)["matmul_rate"]
            matmul[count] = max(before, rate)
        for way, (title, _, threads, _) in WAYS.items():
            task = ("--size", options.size, "--rows", options.rows, "--steps", options.steps)
            done = child(script, "--child", way, *task, threads=threads)
            rates[way] = max(rates[way], done["tokens_per_second"])
            print(f"{title}: {done['tokens_per_second']:,.0f} tokens/s", file=sys.stderr)
    finish("scaling", summarise(rates, matmul, options))


def summarise(
    rates: dict[str, float], matmul: dict[int, float], options: argparse.Namespace
) -> dict[str, Any]:
    """Print the table; the quickest round of each way counts."""
    from contenders import SHAPES

    shape = SHAPES[options.size]
    limit = matmul[2] / (2 * matmul[1])
    results, rows = {}, []
    for way, (title, processes, threads, _) in WAYS.items():
        cores = processes * threads
        efficiency = rates[way] / (cores * rates["one"])
        share = rates[way] * shape.flops / matmul[cores]
        results[way] = {
            "tokens_per_second": round(rates[way], 1),
            "efficiency": round(efficiency, 4),
            "share_of_matmul": round(share, 4),
        }
        rows.append([title, f"{rates[way]:,.0f}", f"{efficiency:.1%}", f"{share:.1%}"])
    columns = ["way", "tokens/s", "efficiency", "of as many cores' matmul rate"]
    title = f"{shape.parameters:,} parameters, batch {options.rows} x {shape.length}; "
    title += f"limit: two cores' matrix products have an efficiency of {limit:.1%}"
    table(title, columns, rows)
    return {"ways": results, "limit": round(limit, 4), "matmul": matmul, "rows": options.rows}


if __name__ == "__main__":
    main()
