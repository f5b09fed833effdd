"""How the weights of two model folders differ, a tensor at a time."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from langwright.base import UserError


@dataclass(frozen=True)
class WeightDifference:
    """How the final weights differ."""

    tensors: int
    unequal: int  # tensors that are not the same to the bit
    largest: float  # absolute difference of two numbers
    relative: float  # norm of all differences over the norm of all weights
    worst: str | None  # the tensor with the largest relative difference; None: all are equal
    strange: tuple[str, ...] = ()  # tensors that only one has, or that have another shape


def compare_weights(first: Path, second: Path) -> WeightDifference | None:
    """Compare the safetensors files of two model folders; None if one of them has none.

    Raises:
        UserError: a file is damaged.
    """
    with ExitStack() as stack:
        one, other = _open(first, stack), _open(second, stack)
        if not one or not other:
            return None
        names = [name for name in one if name in other]
        strange = sorted(one.keys() ^ other.keys())
        unequal, largest, worst, worst_share = 0, 0.0, None, 0.0
        squares, total = 0.0, 0.0
        for name in names:
            a, b = _read(one, name), _read(other, name)
            if a.shape != b.shape:
                strange.append(name)
                continue
            difference, size = (a - b).double(), float(a.double().norm())
            total += size**2
            if torch.equal(a, b):
                continue
            norm = float(difference.norm())
            share = norm / max(size, 1e-30)
            unequal += 1
            squares += norm**2
            largest = max(largest, float(difference.abs().max()))
            if worst is None or not share <= worst_share:
                worst, worst_share = name, share
        relative = (squares / max(total, 1e-60)) ** 0.5
        return WeightDifference(len(names), unequal, largest, relative, worst, tuple(strange))


def _open(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """The file that holds each tensor, by the tensor's name."""
    found: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            file = stack.enter_context(safe_open(path, framework="pt"))
        except (SafetensorError, OSError) as error:
            raise UserError(f"cannot read the weights: {error}", where=path) from None
        found |= dict.fromkeys(file.keys(), file)
    return found


def _read(files: dict[str, Any], name: str) -> Tensor:
    return files[name].get_tensor(name).float()
