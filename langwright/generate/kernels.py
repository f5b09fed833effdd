"""Matrix products with quantised weights, and which kernel is the fastest for how many rows.

Few rows: time goes into reading weights, so few bits win. Many rows: time goes into multiplying,
and bf16 units multiply twice as fast as 4-bit numbers can be unpacked. Where they cross depends on
the machine: `crossing` measures it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.generate.quantise import Grouped, quantise_int4

PACKED_GROUPS = (32, 64, 128, 256)  # that PyTorch's 4-bit kernel has
TRIED_ROWS = (2, 4, 8, 16, 32, 64)


class Product(nn.Module):
    """x (M, K) bf16 -> (M, N) bf16, with weights in a layout of its own, kept as buffers."""

    def __init__(self, **kept: Tensor) -> None:
        super().__init__()
        for name, tensor in kept.items():
            self.register_buffer(name, tensor, persistent=False)

    @property
    def nbytes(self) -> int:
        """Bytes read for each product."""
        return sum(buffer.nbytes for buffer in self.buffers())


class Int4(Product):
    """4-bit codes in PyTorch's packed layout; CPU. Scales are bf16, as the activations are."""

    packed: Tensor
    factors: Tensor

    def __init__(self, weight: Grouped) -> None:
        factors = torch.stack((weight.scale.T, weight.zero.T), -1)  # (K / group, N, 2)
        super().__init__(
            packed=torch.ops.aten._convert_weight_to_int4pack_for_cpu(weight.codes.int(), 1),
            factors=factors.to(torch.bfloat16).contiguous(),
        )
        self.group = weight.group

    def forward(self, x: Tensor) -> Tensor:
        """(M, K) -> (M, N)."""
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, self.group, self.factors)


class TwoInt4(Product):
    """8-bit codes with a scale for each small group, as GGUF's Q8_0 has them: PyTorch's 8-bit
    kernel knows one scale a row only. code - 128 = 16 (high - 8) + low, so the matrix is the sum
    of two 4-bit matrices, and the product is one 4-bit product over twice the columns."""

    def __init__(self, weight: Grouped) -> None:
        super().__init__()
        codes = torch.cat((weight.codes >> 4, weight.codes & 15), dim=1)
        scale = torch.cat((16 * weight.scale, weight.scale), dim=1)
        zero = torch.cat((weight.zero, 8 * weight.scale), dim=1)
        self.inner = Int4(Grouped(codes, scale, zero, 4))

    def forward(self, x: Tensor) -> Tensor:
        """(M, K) -> (M, N)."""
        return self.inner(torch.cat((x, x), dim=1))


class Int8(Product):
    """8-bit codes with one scale a row; CPU."""

    codes: Tensor
    scale: Tensor

    def __init__(self, weight: Grouped) -> None:
        super().__init__(
            codes=(weight.codes.short() - weight.middle).to(torch.int8),  # (N, K)
            scale=weight.scale[:, 0].to(torch.bfloat16),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(M, K) -> (M, N)."""
        return torch.ops.aten._weight_int8pack_mm(x, self.codes, self.scale)


class Reference(Product):
    """Codes expanded at each product: any device, any group. What the others must equal."""

    codes: Tensor
    scale: Tensor
    zero: Tensor

    def __init__(self, weight: Grouped) -> None:
        super().__init__(codes=weight.codes, scale=weight.scale, zero=weight.zero)
        self.bits = weight.bits

    def forward(self, x: Tensor) -> Tensor:
        """(M, K) -> (M, N)."""
        weight = Grouped(self.codes, self.scale, self.zero, self.bits)
        return F.linear(x, weight.dense().to(x.dtype))


def product(weight: Grouped) -> Product:
    """The fastest kernel for few rows that the device has for these codes."""
    rows, columns = weight.codes.shape
    if weight.codes.device.type != "cpu" or rows % 16 or columns % 16:
        return Reference(weight)  # PyTorch's kernels read beyond such matrices
    if weight.bits == 8 and weight.scale.shape[1] == 1:
        return Int8(weight)
    if weight.group not in PACKED_GROUPS:
        return Reference(weight)
    return Int4(weight) if weight.bits == 4 else TwoInt4(weight)


@functools.cache
def crossing(width: int = 1024, height: int = 1024) -> int:
    """The most rows for which the 4-bit kernel is faster than bf16 on this machine, with the
    threads set now. Measured once in a process: some 50 ms."""
    weights = torch.randn(height, width, generator=torch.Generator().manual_seed(0))
    few = Int4(quantise_int4(weights))
    wide = weights.to(torch.bfloat16)
    last = 1
    for rows in TRIED_ROWS:
        x = torch.ones(rows, width, dtype=torch.bfloat16)
        if _seconds(lambda x=x: few(x)) > _seconds(lambda x=x: F.linear(x, wide)):  # type: ignore[misc]
            break
        last = rows
    return last


def _seconds(work: Callable[[], object], times: int = 5) -> float:
    """The fastest of a few runs: other processes only ever add time."""
    work()
    best = float("inf")
    for _ in range(times):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best
