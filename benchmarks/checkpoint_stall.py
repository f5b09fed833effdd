"""Checkpoint stall: milliseconds for which training stands still while a checkpoint is saved.

Three ways of saving weights and AdamW's state (12 bytes per parameter), each in processes of its
own on the same model:

- at once: one process writes, hashes and syncs before it goes on
- background: one process copies into main memory, a thread writes
- two processes: the same, each with its half of every matrix (FSDP on gloo)

    python benchmarks/checkpoint_stall.py [--width 384] [--layers 6] [--saves 5]

Stall is what `Saver.save` takes, median over the saves after the first (which takes the memory for
the copies); a save begins when the one before has been written, as in a run with longer intervals.
Written is how long it takes until the checkpoint is there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import child, finish, table

WAYS = {
    "at once": "one process, at once",
    "background": "one process, in the background",
    "two": "two processes, in the background",
}


def measure(folder: Path, way: str, width: int, layers: int, saves: int) -> dict[str, Any]:
    """Seconds of stall and until written, of each save, in this process."""
    import torch

    from langwright.model import build_model, model_config
    from langwright.optim import OptimConfig
    from langwright.parallel import Alone, ParallelConfig, layout, parallelise, world
    from langwright.train import TrainConfig
    from langwright.train.saver import Saver

    changes = {"width": width, "layers": layers, "heads": 6}
    config = model_config({"preset": "gpt2-124m", **changes}, vocab_size=50304)
    form: Alone
    if world().size > 1:
        form = parallelise(config, 0, layout(ParallelConfig.parse({}), world("cpu")))
    else:
        form = Alone(build_model(config, seed=0))
    optimizer = form.optimizer(OptimConfig.parse({}))
    for parameter in form.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # makes its state
    train = TrainConfig.parse({"checkpoint_async": way != "at once"})
    saver = Saver(folder, form, optimizer, train, say=print)
    stalls, written = [], []
    for step in range(saves + 1):
        form.wait()
        begun = time.perf_counter()
        saver.save(step, {})
        stalls.append(time.perf_counter() - begun)
        saver.wait()
        written.append(time.perf_counter() - begun)
    saver.close()
    form.wait()
    size = sum(path.stat().st_size for path in (folder / f"step-{saves:07d}").iterdir())
    return {"stall": stalls[1:], "written": written[1:], "first": stalls[0], "bytes": size}


def in_two(folder: Path, way: str, width: int, layers: int, saves: int) -> dict[str, Any]:
    """The same in two processes; the slower one's stalls."""
    import torch  # noqa: F401 (before the fork)

    context = multiprocessing.get_context("fork")
    places = [(rank, folder, way, width, layers, saves) for rank in range(2)]
    processes = [context.Process(target=_rank, args=place) for place in places]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise SystemExit("a process failed")
    results = [json.loads((folder / f"result-{rank}").read_text()) for rank in range(2)]
    worst = {key: list(map(max, *(r[key] for r in results))) for key in ("stall", "written")}
    return {**results[0], **worst}


def _rank(rank: int, folder: Path, way: str, width: int, layers: int, saves: int) -> None:
    from langwright.parallel import process_group, world

    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    os.environ["LANGWRIGHT_INIT_METHOD"] = f"file://{folder}/meeting"
    with process_group(world("cpu")):
        result = measure(folder / "checkpoints", way, width, layers, saves)
    (folder / f"result-{rank}").write_text(json.dumps(result))


def main() -> None:
    """Measure each way, and print the table."""
    parser = argparse.ArgumentParser(description="How long training stands still for a checkpoint.")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = (options.width, options.layers, options.saves)
    if options.child:
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        try:
            work = in_two if options.child == "two" else measure
            print(json.dumps(work(folder, options.child, *sizes)))
        finally:
            shutil.rmtree(folder)
        return
    names = ("--width", "--layers", "--saves")
    settings = [part for pair in zip(names, sizes) for part in pair]
    settings += ["--folder", options.folder] if options.folder else []
    results, rows = {}, []
    for way, title in WAYS.items():
        done = child(Path(__file__).name, "--child", way, *settings)
        stall, written = statistics.median(done["stall"]), statistics.median(done["written"])
        results[way] = {
            "stall_ms": round(1e3 * stall, 1),
            "worst_stall_ms": round(1e3 * max(done["stall"]), 1),
            "first_stall_ms": round(1e3 * done["first"], 1),
            "written_ms": round(1e3 * written, 1),
            "bytes": done["bytes"],
        }
        rows.append([title, *(f"{results[way][key]:,.1f}" for key in list(results[way])[:4])])
        print(f"{title}: {1e3 * stall:.1f} ms", file=sys.stderr)
    megabytes = results["at once"]["bytes"] / 1e6
    columns = ["saved by", "stall, ms", "worst", "first", "until written, ms"]
    table(f"A checkpoint of {megabytes:,.0f} MB", columns, rows)
    finish("checkpoint_stall", {"ways": results})


if __name__ == "__main__":
    main()
