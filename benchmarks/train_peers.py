"""Training speed and memory of equal models: Langwright, `transformers.Trainer` and LitGPT.

A Llama-shaped model of 10.6M parameters (context 256, 65 symbols) or 123.6M (context 1024, 50,304
symbols), equal in all trainers to the last parameter (checked), the same tokens in a batch, bf16
with fp32 weights, AdamW and clipping everywhere. Each in a process of its own, taking turns.

    python benchmarks/train_peers.py [--size 10m|124m] [--contenders ours,transformers,litgpt]
                                     [--rounds 1] [--threads 2] [--litgpt-python PATH]

LitGPT pins what transformers 5 does not go with, so it has an environment of its own; without
--litgpt-python (or LITGPT_PYTHON) it is left out. To make one beside an installed torch, of which
it must not fetch another:

    python -m venv ~/litgpt-venv
    python -c "import site; print(*site.getsitepackages())" \
        > "$(ls -d ~/litgpt-venv/lib/python3*/site-packages)/beside.pth"
    ~/litgpt-venv/bin/pip install --no-deps litgpt==0.5.13 lightning==2.6.6 \
        pytorch-lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0 \
        jsonargparse==4.41.0

Tokens per second: median over the updates after the first one (in which the peers compile). Peak
memory: the most main memory that the process ever held, libraries included. The limits are the
machine's bf16 matmul rate, and 16 bytes for each parameter (fp32 weight, gradient and moments). The
rate is told twice: the quickest single product in all rounds, and what products one after another
reach for some seconds right before each run, as the run itself must (median of the rounds' shares).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import child, finish, sustained_matmul, table

MIB = 2**20
CONTENDERS = {
    "ours": "langwright, AdamW",
    "ours-compiled": "langwright, AdamW, compiled blocks",
    "ours-muon": "langwright, Muon",
    "transformers": "transformers.Trainer",
    "transformers-compiled": "transformers.Trainer, torch_compile",
    "litgpt": "LitGPT pretrain (compiles)",
}
DEFAULT = "ours,ours-compiled,ours-muon,transformers,transformers-compiled,litgpt"
ROWS = {"tiny": 8, "10m": 64, "124m": 4}  # of a batch: 16,384 and 4,096 tokens
STEPS = {"tiny": 4, "10m": 5, "124m": 3}


@dataclass(frozen=True)
class Task:
    """What every contender is asked to do."""

    size: str
    rows: int
    steps: int
    micro: int  # rows of the peers' passes; ours is chosen by the trainer

    def arguments(self) -> list[object]:
        """For the command line of a child."""
        names = ("--size", "--rows", "--steps", "--micro-rows")
        values = (self.size, self.rows, self.steps, self.micro)
        return [part for pair in zip(names, values) for part in pair]


def run_child(name: str, task: Task) -> dict[str, Any]:
    """One contender in this process, or the machine's matmul rate."""
    if name == "peak":
        from langwright.base import matmul_peak

        return {"matmul_peak": matmul_peak("bf16", "cpu"), "matmul_sustained": sustained_matmul()}
    import contenders

    shape, rows, steps = contenders.SHAPES[task.size], task.rows, task.steps
    if name == "litgpt":
        return contenders.litgpt_pretrain(shape, rows, steps, micro=task.micro)
    if name.startswith("transformers"):
        compiled = name.endswith("compiled")
        return contenders.transformers_trainer(
            shape, rows, steps, micro=task.micro, compiled=compiled
        )
    settings: dict[str, Any] = {"precision": "bf16", "device": "cpu"}
    if name == "ours-compiled":
        settings |= {"compile": True, "lanes": 1}  # as a run of half an hour finds it by itself
    if name == "ours-muon":
        settings["optimizer"] = {"name": "muon"}
    return contenders.ours(shape, rows, steps, settings)


def why_no_litgpt(python: str | None) -> str | None:
    """What is missing for LitGPT, if anything."""
    if python is None:
        return "no --litgpt-python given (see the top of this script)"
    test = [python, "-c", "import litgpt.pretrain, torchmetrics"]
    try:
        done = subprocess.run(test, capture_output=True, text=True)
    except OSError as error:
        return f"{python} does not start: {error}"
    return done.stderr.strip().splitlines()[-1] if done.returncode else None


def main() -> None:
    """Run the contenders in turn and print the table."""
    parser = argparse.ArgumentParser(description="Training of equal models by three trainers.")
    parser.add_argument("--size", choices=STEPS, default="10m")
    parser.add_argument("--contenders", default=DEFAULT, help=f"some of {', '.join(CONTENDERS)}")
    parser.add_argument("--rounds", type=int, default=1, help="turns each contender takes")
    parser.add_argument("--threads", type=int, help="of each process (default: all cores)")
    parser.add_argument("--rows", type=int, help="rows in a batch")
    parser.add_argument("--steps", type=int, help="updates; the first one is not timed")
    parser.add_argument("--micro-rows", type=int, help="of the peers' passes (default: --rows)")
    parser.add_argument("--litgpt-python", default=os.environ.get("LITGPT_PYTHON"))
    parser.add_argument("--child", choices=[*CONTENDERS, "peak"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows, steps = options.rows or ROWS[options.size], options.steps or STEPS[options.size]
    micro = options.micro_rows or rows
    if rows % micro or steps < 2:
        parser.error("--rows must be a multiple of --micro-rows, and --steps at least 2")
    task = Task(options.size, rows, steps, micro)
    if options.child:
        print(json.dumps(run_child(options.child, task)))
        return

    names = options.contenders.split(",")
    if unknown := set(names) - set(CONTENDERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(CONTENDERS)}")
    skipped = {}
    if "litgpt" in names and (reason := why_no_litgpt(options.litgpt_python)):
        print(f"litgpt left out: {reason}", file=sys.stderr)
        skipped["litgpt"] = reason
        names.remove("litgpt")
    if not names:
        raise SystemExit("nobody is left to measure")
    runs, peak = measure(names, task, options)
    finish("train_peers", {**summarise(runs, peak, task), "skipped": skipped})


def measure(
    names: list[str], task: Task, options: argparse.Namespace
) -> tuple[dict[str, list[dict[str, Any]]], float]:
    """All rounds of all contenders, and the machine's matmul rate."""
    script, peak = Path(__file__).name, 0.0
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(options.rounds):
        for name in names:
            limits = child(script, "--child", "peak", threads=options.threads)
            peak = max(peak, limits["matmul_peak"])
            python = options.litgpt_python if name == "litgpt" else None
            arguments = ("--child", name, *task.arguments())
            run = child(script, *arguments, threads=options.threads, python=python)
            runs[name].append({**run, "matmul_sustained": limits["matmul_sustained"]})
            print(
                f"{name}: {run['tokens_per_second']:,.0f} tokens/s, "
                f"{run['peak_bytes'] / MIB:,.0f} MiB, {run['wall_seconds']:.0f} s in all",
                file=sys.stderr,
            )
    return runs, peak


def summarise(runs: dict[str, list[dict[str, Any]]], peak: float, task: Task) -> dict[str, Any]:
    """Print the table; of each contender the quickest round counts, and the least memory."""
    from contenders import SHAPES

    shape = SHAPES[task.size]
    rates = {name: max(r["tokens_per_second"] for r in done) for name, done in runs.items()}
    peaks = {name: min(r["peak_bytes"] for r in done) for name, done in runs.items()}
    results, rows = {}, []
    for name, done in runs.items():
        share = rates[name] * shape.flops / peak
        sustained = statistics.median(
            run["tokens_per_second"] * shape.flops / run["matmul_sustained"] for run in done
        )
        least = 16 * shape.parameters
        results[name] = {
            "tokens_per_second": round(rates[name], 1),
            "all_rounds": [round(r["tokens_per_second"], 1) for r in done],
            "share_of_peak": round(share, 4),
            "share_of_sustained": round(sustained, 4),
            "peak_bytes": peaks[name],
            "peak_over_16_bytes_per_parameter": round(peaks[name] / least, 2),
            "choices": done[-1].get("choices"),
        }
        cells = [f"{rates[name]:,.0f}", f"{share:.1%}", f"{sustained:.1%}"]
        cells += ["-", f"{peaks[name] / MIB:,.0f}"]
        cells += [f"{peaks[name] / least:.1f}x", "-"]
        if "ours" in runs:
            results[name]["ours_is_faster_by"] = round(rates["ours"] / rates[name], 3)
            results[name]["our_memory_over_it"] = round(peaks["ours"] / peaks[name], 3)
            cells[3] = f"{rates['ours'] / rates[name]:.2f}x"
            cells[6] = f"{peaks['ours'] / peaks[name]:.2f}x"
        rows.append([CONTENDERS[name], *cells])
    columns = ["trainer", "tokens/s", "of bf16 peak", "of sustained"]
    columns += ["ours / it", "peak MiB", "of 16 B/parameter"]
    title = f"{shape.parameters:,} parameters, batch {task.rows} x {shape.length}, "
    title += f"peers' passes {task.micro} rows; limit {peak / 1e9:,.0f} GFLOP/s"
    table(title, [*columns, "ours / it"], rows)
    sizes = {"size": task.size, "rows": task.rows, "parameters": shape.parameters}
    return {"contenders": results, "matmul_peak": peak, **sizes}


if __name__ == "__main__":
    main()
