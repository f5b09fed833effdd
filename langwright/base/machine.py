"""The machine is measured, not assumed: cores, memory, accelerator, matmul rate, versions."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from langwright.base.errors import UserError
from langwright.base.progress import human_bytes

DTYPES = {
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}
PACKAGES = (
    "langwright",
    "torch",
    "numpy",
    "tokenizers",
    "tiktoken",
    "rustbpe",
    "safetensors",
    "pydantic",
    "pyarrow",
    "transformers",
)


@dataclass(frozen=True)
class Machine:
    """What this process may use of the machine it runs on."""

    device: str  # "cuda", "mps" or "cpu"
    name: str  # model of the accelerator, or of the processor
    cores: int  # that this process may use: affinity and container quota counted in
    memory_bytes: int  # main memory this process may use
    device_memory_bytes: int | None  # memory of the accelerator, None on a CPU
    devices: int  # how many accelerators of this kind there are; 1 on a CPU
    bf16: bool  # bfloat16 matmuls are done by the hardware

    def describe(self) -> str:
        """One line for a person."""
        parts = [f"{self.device}: {self.name}"]
        if self.devices > 1:
            parts.append(f"{self.devices} of them")
        if self.device_memory_bytes:
            parts.append(f"{human_bytes(self.device_memory_bytes)} on the device")
        parts.append(f"{self.cores} core{'s' if self.cores != 1 else ''}")
        parts.append(f"{human_bytes(self.memory_bytes)} memory")
        parts.append("fast bfloat16" if self.bf16 else "no fast bfloat16")
        return ", ".join(parts)


@functools.cache
def machine() -> Machine:
    """Look at the machine once per process."""
    import torch

    device_memory, devices = None, 1
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        device, name = "cuda", properties.name
        device_memory, devices = properties.total_memory, torch.cuda.device_count()
        bf16 = properties.major >= 8
    elif torch.backends.mps.is_available():
        device, name, bf16 = "mps", _cpu_name(), False
        device_memory = torch.mps.recommended_max_memory()
    else:
        device, name, bf16 = "cpu", _cpu_name(), _cpu_has_bf16()
    return Machine(device, name, _usable_cores(), _usable_memory(), device_memory, devices, bf16)


@functools.cache
def matmul_peak(dtype_name: str, device: str | None = None) -> float:
    """The rate of large square matrix products, in FLOP/s: what a training step could reach.

    Measured once per process, about 0.3 s; the best of many, since a busy machine only slows down.

    Args:
        dtype_name: "fp32", "bf16" or "fp16".
        device: a torch device; the machine's own by default.
    """
    import torch

    if dtype_name not in DTYPES:
        raise UserError("unknown number format", found=dtype_name, expected="fp32, bf16 or fp16")
    place = torch.device(device or machine().device)
    dtype = getattr(torch, DTYPES[dtype_name])
    best = 0.0
    for size in (4096, 8192) if place.type == "cuda" else (1024, 2048):
        rate = _matmul_rate(torch, size, dtype, place, seconds=0.15)
        best = max(best, rate)
        if 2 * (2 * size) ** 3 / rate > 0.2:  # the next size would take too long here
            break
    return best


def _matmul_rate(torch: Any, size: int, dtype: Any, place: Any, seconds: float) -> float:
    """Best FLOP/s of (size, size) @ (size, size)."""
    # Random numbers: on constant ones a processor draws less power and clocks higher than in life.
    left = torch.randn(size, size, device=place).to(dtype)
    right = torch.randn(size, size, device=place).to(dtype)
    out = torch.empty(size, size, dtype=dtype, device=place)
    best = float("inf")
    with torch.no_grad():
        torch.mm(left, right, out=out)  # warm up
        _synchronize(torch, place)
        end = time.perf_counter() + seconds
        while True:
            start = time.perf_counter()
            torch.mm(left, right, out=out)
            _synchronize(torch, place)
            now = time.perf_counter()
            best = min(best, now - start)
            if now >= end:
                return 2 * size**3 / best


def _synchronize(torch: Any, place: Any) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    elif place.type == "mps":
        torch.mps.synchronize()


def peak_memory_bytes(device: str | None = None) -> int:
    """The most memory this process has held so far: main memory, or that of a CUDA `device`."""
    if device is not None and device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def environment() -> dict[str, Any]:
    """Versions and settings that a result may depend on, as plain JSON values."""
    import torch

    found = machine()
    versions = {name: version for name in PACKAGES if (version := _package_version(name))}
    versions["torch"] = torch.__version__
    return {
        "python": platform.python_version(),
        "packages": versions,
        "git": git_version(),
        "os": platform.platform(),
        "device": found.device,
        "device_name": found.name,
        "cuda": torch.version.cuda,
        "cores": found.cores,
        "memory_bytes": found.memory_bytes,
        "torch_threads": torch.get_num_threads(),
    }


def git_version() -> str | None:
    """``git describe`` of the checkout Langwright runs from; None if it is installed otherwise."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():  # a package inside someone else's repository is not ours
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--tags"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_info(*names: str) -> str | None:
    """The first of the fields `names` in Linux's cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in names:
            return value.strip()
    return None


def _cpu_name() -> str:
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            return subprocess.run(
                command, capture_output=True, text=True, timeout=10
            ).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            return platform.machine()
    return _cpu_info("model name", "Model") or platform.processor() or platform.machine()


def _cpu_has_bf16() -> bool:
    flags = set((_cpu_info("flags", "Features") or "").split())
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    for folder in _cgroup_folders("cpu"):
        quota = _cgroup_quota(folder)
        if quota is not None:
            cores = min(cores, max(1, int(quota + 0.5)))
    return max(1, cores)


def _usable_memory() -> int:
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        memory = 8 * 2**30
    for folder in _cgroup_folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = _read(folder / name)
            if text is not None and text.isdigit():
                memory = min(memory, int(text))
    return memory


def _cgroup_folders(controller: str) -> list[Path]:
    """This process's control groups for `controller`, from the innermost to the root."""
    folders: list[Path] = []
    for line in (_read(Path("/proc/self/cgroup")) or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, inside = rest.partition(":")
        if controllers == "":
            root = Path("/sys/fs/cgroup")
        elif controller in controllers.split(","):
            root = Path("/sys/fs/cgroup") / controller
        else:
            continue
        here = root / inside.strip("/")
        while here != root and root in here.parents:
            folders.append(here)
            here = here.parent
        folders.append(root)
    return folders


def _cgroup_quota(folder: Path) -> float | None:
    """How many cores' worth of time the group may use; None if it is not limited."""
    text = _read(folder / "cpu.max")  # version 2: "200000 100000" or "max 100000"
    if text is not None:
        quota, _, period = text.partition(" ")
    else:
        quota = _read(folder / "cpu.cfs_quota_us") or ""
        period = _read(folder / "cpu.cfs_period_us") or ""
    if quota.isdigit() and period.isdigit() and int(period) > 0:
        return int(quota) / int(period)
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
