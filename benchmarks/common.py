"""What the benchmarks share: fresh processes measured from outside, tables, the last JSON line.

Every measured thing runs in a process of its own, so that nobody pays for, or profits from, what
another one imported, compiled or left in memory. The parent stays small on purpose: it imports
neither torch nor Langwright.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
SHARED_DATA = CHECKOUT.parent / "shared" / "data"


def child(
    script: str, *arguments: object, threads: int | None = None, python: str | None = None
) -> dict[str, Any]:
    """Run `script` in a fresh Python and return the JSON object of its last line of output.

    python: the interpreter of another environment.

    Adds ``wall_seconds``: from before the process was started until it had ended. The child finds
    the time of its start in the environment variable BENCHMARK_STARTED (seconds since the epoch).
    """
    command = [python or sys.executable, str(HERE / script), *map(str, arguments)]
    path = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path))
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    started = time.time()
    environment["BENCHMARK_STARTED"] = repr(started)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    seconds = time.time() - started
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}")
    return {**json.loads(lines[-1]), "wall_seconds": seconds}


def seconds_since_start() -> float:
    """Inside a child: seconds since the parent started this process, Python's start included."""
    return time.time() - float(os.environ["BENCHMARK_STARTED"])


def peak_resident_bytes() -> int:
    """The most main memory this process has held.

    From Linux's own counter where there is one: `getrusage` would also count what the parent held
    when it forked.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def flops_per_token(parameters: int, layers: int, width: int, length: int) -> float:
    """Training FLOPs per token, 6N + 12 L d T: one rule for all contenders (PaLM, appendix B)."""
    return 6.0 * parameters + 12.0 * layers * width * length


def sustained_matmul(size: int = 2048, seconds: float = 5.0) -> float:
    """FLOP/s of bf16 products (size, size) @ (size, size) on the CPU, one after another."""
    import torch

    left, right = (torch.randn(size, size).to(torch.bfloat16) for _ in range(2))
    out, count = torch.mm(left, right), 0
    start = time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        torch.mm(left, right, out=out)
        count += 1
    return 2 * size**3 * count / passed


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns; numbers are aligned to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    print(f"\n{title}")
    for line in [list(columns), *cells]:
        first, rest = line[0].ljust(widths[0]), zip(line[1:], widths[1:])
        print("  " + "  ".join([first, *(cell.rjust(width) for cell, width in rest)]))


def finish(name: str, result: dict[str, Any]) -> None:
    """Print the result as one line of JSON, with the machine and the versions: the last line."""
    print(json.dumps({"benchmark": name, **result, "machine": machine_line(), **versions()}))


def machine_line() -> str:
    """Processor, cores and load, without importing anything heavy."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores{load}"


def versions() -> dict[str, Any]:
    """Versions of Python and of the packages that matter here."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "python": platform.python_version()}
    for package in ("torch", "transformers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
