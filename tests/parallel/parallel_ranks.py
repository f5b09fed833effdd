"""Several processes for a test: forked, so that torch is imported only once."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint
import torch.distributed.fsdp  # these take seconds: once, before the forks

from langwright.parallel import process_group, world

SECONDS = 90.0  # after which a test that hangs is ended


def run_ranks(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run ``work(*arguments)`` in `count` processes that form a group; what each returned.

    `work` finds its place with `world()`, as under torchrun. Results are pickled between the
    processes of the test: plain values, numpy arrays, tensors on the CPU.

    Raises:
        AssertionError: a process failed or hung; with its traceback.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for rank in range(count):
            place = (rank, count, folder)
            processes.append(context.Process(target=_child, args=(place, work, arguments)))
        for process in processes:
            process.start()
        _wait(processes, Path(folder))
        return [
            torch.load(Path(folder) / f"result-{rank}", weights_only=False) for rank in range(count)
        ]


def _child(place: tuple[int, int, str], work: Callable[..., Any], arguments: Any) -> None:
    rank, count, folder = place
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(count),
        LOCAL_RANK=str(rank),
        LANGWRIGHT_INIT_METHOD=f"file://{folder}/meeting",
    )
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)  # a forked process has no threads of its parent's pool
    try:
        with process_group(world("cpu")):
            torch.save(work(*arguments), f"{folder}/result-{rank}.tmp")
            os.replace(f"{folder}/result-{rank}.tmp", f"{folder}/result-{rank}")
            _meet(Path(folder), count)
    except BaseException:
        Path(folder, f"error-{rank}").write_text(traceback.format_exc())
        os._exit(1)
    os._exit(0)


def _meet(folder: Path, count: int) -> None:
    """Wait for the others: who leaves while somebody still connects to it makes that fail."""
    kinds = ("result", "error")
    while not all(any((folder / f"{k}-{rank}").exists() for k in kinds) for rank in range(count)):
        time.sleep(0.002)


def _wait(processes: list[Any], folder: Path) -> None:
    until = time.monotonic() + SECONDS
    while any(process.is_alive() for process in processes):
        failed = [p for p in processes if p.exitcode not in (None, 0)]
        if failed or time.monotonic() > until:
            time.sleep(0.2)  # for the others' own last words
            for process in processes:
                process.kill()
            break
        time.sleep(0.005)
    for process in processes:
        process.join()
    errors = [f"rank {p.name[6:]}:\n{p.read_text()}" for p in sorted(folder.glob("error-*"))]
    assert not errors, "\n".join(errors)
    codes = [process.exitcode for process in processes]
    assert codes == [0] * len(codes), f"processes ended with {codes} (killed after a time-out?)"
