"""Exercises of appendix A: is all installed (A.1, A.2), 752 parameters (A.3), CPU or GPU (A.4).

The last one times; what it prints depends on the machine and on what else it is doing.

    python docs/learn/exercises_machine.py
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from figures import Figure, close, show
from torch import Tensor, nn

from langwright.base import machine
from langwright.model import module_tree


def number(version: str) -> tuple[int, ...]:
    """The numbers a version starts with: "2.13.0+cpu" is (2, 13, 0)."""
    return tuple(int(part) for part in re.match(r"[0-9.]*", version)[0].strip(".").split("."))  # type: ignore[index]


def unmet(requirement: str) -> str | None:
    """What is wrong with an installed package: "torch>=2.11,<2.14" -> None or a sentence."""
    name = re.match(r"[A-Za-z0-9_.-]+", requirement)[0]  # type: ignore[index]
    try:
        installed = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement}: not installed"
    for sign, bound in re.findall(r"(>=|<)\s*([0-9.]+)", requirement):
        here, there = number(installed), number(bound)
        if (here >= there) != (sign == ">="):
            return f"{requirement}: {installed} is installed"
    return None


# What Langwright's core stands on (pyproject.toml has the whole list, for pip).
NEEDED = (
    "torch>=2.11,<2.14",
    "numpy>=1.26",
    "pydantic>=2.7",
    "safetensors>=0.4.5",
    "tokenizers>=0.20",
    "tiktoken>=0.8",
)


def r15_environment() -> Iterator[Figure]:
    """Exercises A.1 and A.2: Python and packages are there and new enough, and torch computes.

    The book was written with torch 2.0.1 and tiktoken 0.5.1; its figures still come out.
    """
    print(f"    Python {sys.version.split()[0]}, torch {torch.__version__}")
    print(f"    {machine().describe()}")
    yield close("R15 Python 3.11 or newer", sys.version_info >= (3, 11), True)
    yield close("R15 packages missing or old", [unmet(one) for one in NEEDED if unmet(one)], [])
    product = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=machine().device) @ torch.ones(2, 1).to(
        machine().device
    )
    yield close(f"R15 a product on {machine().device}", product, [3.0, 7.0])


class Perceptron(nn.Module):
    """(B, inputs) -> (B, outputs) through two hidden layers of 30 and 20 (appendix A.5)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(inputs, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def r16_parameters() -> Iterator[Figure]:
    """Exercise A.3: 2 inputs, 2 outputs: (2 x 30 + 30) + (30 x 20 + 20) + (20 x 2 + 2) = 752."""
    net = Perceptron(2, 2)
    trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
    yield close("R16 trainable parameters", trainable, 752)
    yield close(
        "R16 layer by layer", [p.numel() for p in net.parameters()], [60, 30, 600, 20, 40, 2]
    )
    total = module_tree(net).splitlines()[0].split()[-1]
    yield close("R16 langwright.model.module_tree", total, "752")


def seconds(product: Callable[[], object], wait: Callable[[], object], least: float) -> float:
    """Seconds of one call: the best of as many as fit into `least` seconds, after a warm-up.

    A GPU answers before it has computed: `wait` must return only when it is done.
    """
    product()
    wait()
    best, end = float("inf"), time.perf_counter() + least
    while time.perf_counter() < end:
        start = time.perf_counter()
        product()
        wait()
        best = min(best, time.perf_counter() - start)
    return best


def product_seconds(sizes: Sequence[int], device: str, least: float = 0.05) -> list[float]:
    """Seconds of (n, 2n) @ (2n, 3n) for each n on the device, all data already there."""
    wait = getattr(torch, device).synchronize if device != "cpu" else lambda: None
    times = []
    for n in sizes:
        left, right = torch.rand(n, 2 * n, device=device), torch.rand(2 * n, 3 * n, device=device)
        times.append(seconds(lambda a=left, b=right: a @ b, wait, least))  # type: ignore[misc]
    return times


def first_win(sizes: Sequence[int], slow: Sequence[float], quick: Sequence[float]) -> int | None:
    """The size from which on `quick` takes less time than `slow`; None if it ends slower."""
    losses = [i for i, (a, b) in enumerate(zip(slow, quick)) if b >= a]
    start = losses[-1] + 1 if losses else 0
    return sizes[start] if start < len(sizes) else None


def r17_cpu_or_gpu(sizes: Sequence[int] = (25, 50, 100, 200, 400, 800)) -> Iterator[Figure]:
    """Exercise A.4: (100, 200) by (200, 300): the book saw 63.8 us on a CPU, 13.8 us on a V100.

    A small product is over before a GPU has been told of it; from some size on it wins.
    """
    times = {"cpu": product_seconds(sizes, "cpu")}
    if machine().device != "cpu":
        times[machine().device] = product_seconds(sizes, machine().device)
    for i, n in enumerate(sizes):
        cells = ", ".join(f"{name} {t[i] * 1e6:.1f} us" for name, t in times.items())
        print(f"    ({n}, {2 * n}) @ ({2 * n}, {3 * n}): {cells}")
    if len(times) == 1:
        print("    no GPU on this machine: nothing to compare with")
    else:
        slow, quick = times.values()
        print(f"    the {machine().device} wins from n = {first_win(sizes, slow, quick)} on")
    taken = [all(t > 0 for t in row) for row in times.values()]
    yield close("R17 every product was timed", taken, [True] * len(times))
    growth = times["cpu"][-1] > times["cpu"][0]
    yield close("R17 the largest takes longer than the smallest", growth, True)


if __name__ == "__main__":
    sys.exit(show(r15_environment(), r16_parameters(), r17_cpu_or_gpu()))
