"""Stored blocks to float32 numbers, in numpy, a stretch of blocks at a time.

Every function takes the blocks of one stretch as a structured array (n,) and gives (n, values).
Within a block, ggml keeps the low halves of bytes for the first half of the values and the high
halves for the second; the arithmetic is the reference's (``dequantize_row_*`` in ggml-quants.c),
so the numbers are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from langwright.formats.gguf.kinds import Kind

Floats = NDArray[np.float32]
Array = NDArray[Any]  # of blocks, or of bytes

STRETCH = 1 << 18  # values done at once: the temporaries stay in the processor's cache

_F16, _U8, _I8 = "<f2", "u1", "i1"
LAYOUTS: dict[str, np.dtype[np.void]] = {
    "Q4_0": np.dtype([("d", _F16), ("q", _U8, 16)]),
    "Q4_1": np.dtype([("d", _F16), ("m", _F16), ("q", _U8, 16)]),
    "Q5_0": np.dtype([("d", _F16), ("high", "<u4"), ("q", _U8, 16)]),
    "Q5_1": np.dtype([("d", _F16), ("m", _F16), ("high", "<u4"), ("q", _U8, 16)]),
    "Q8_0": np.dtype([("d", _F16), ("q", _I8, 32)]),
    "Q4_K": np.dtype([("d", _F16), ("m", _F16), ("scales", _U8, 12), ("q", _U8, 128)]),
    "Q5_K": np.dtype(
        [("d", _F16), ("m", _F16), ("scales", _U8, 12), ("high", _U8, 32), ("q", _U8, 128)]
    ),
    "Q6_K": np.dtype([("low", _U8, 128), ("high", _U8, 64), ("scales", _I8, 16), ("d", _F16)]),
}


def dequantise(data: memoryview, kind: Kind, values: int) -> Floats:
    """The `values` numbers (a multiple of the block) that `data` holds, as a new array (values,).

    Args:
        data: exactly ``kind.nbytes(values)`` bytes.
    """
    if kind.name == "F32":
        return np.frombuffer(data, "<f4").astype(np.float32)
    if kind.name == "F16":
        return np.frombuffer(data, _F16).astype(np.float32)
    if kind.name == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    blocks = np.frombuffer(data, LAYOUTS[kind.name])
    out = np.empty((len(blocks), kind.block), np.float32)
    step = max(1, STRETCH // kind.block)
    expand = _EXPAND[kind.name]
    with np.errstate(invalid="ignore", over="ignore"):  # damaged scales: the caller checks
        for start in range(0, len(blocks), step):
            out[start : start + step] = expand(blocks[start : start + step])
    return out.reshape(-1)


def _column(values: Array) -> Floats:
    """Half-precision scales (n,) as float32 (n, 1)."""
    return values.astype(np.float32)[:, None]


def _nibbles(q: Array) -> Array:
    """Bytes (n, b) to their halves (n, 2b), the low halves first."""
    return np.concatenate((q & 0x0F, q >> 4), axis=1)


def _fifth_bits(high: Array) -> Array:
    """One bit per value in a 32-bit word: (n,) to (n, 32), worth 16 each."""
    bits = high[:, None] >> np.arange(32, dtype=np.uint32)[None]
    return ((bits & 1) << 4).astype(np.uint8)


def _q4_0(b: Array) -> Floats:
    return (_nibbles(b["q"]).astype(np.int8) - 8) * _column(b["d"])


def _q4_1(b: Array) -> Floats:
    return _nibbles(b["q"]) * _column(b["d"]) + _column(b["m"])


def _q5_0(b: Array) -> Floats:
    q = _nibbles(b["q"]) | _fifth_bits(b["high"])
    return (q.astype(np.int8) - 16) * _column(b["d"])


def _q5_1(b: Array) -> Floats:
    return (_nibbles(b["q"]) | _fifth_bits(b["high"])) * _column(b["d"]) + _column(b["m"])


def _q8_0(b: Array) -> Floats:
    return b["q"] * _column(b["d"])


def _scales_and_minima(b: Array) -> tuple[Floats, Floats]:
    """The 8 scales and 8 minima (n, 8) of a block: 6 bits each, packed in 12 bytes.

    Bytes 0-3 hold scales 0-3 in their low six bits, bytes 4-7 the minima; bytes 8-11 the low four
    bits of scales and minima 4-7, whose high two bits are the top two of bytes 0-7.
    """
    first, second, third = (b["scales"][:, at : at + 4] for at in (0, 4, 8))
    scales = np.concatenate((first & 63, (third & 0x0F) | ((first >> 6) << 4)), axis=1)
    minima = np.concatenate((second & 63, (third >> 4) | ((second >> 6) << 4)), axis=1)
    return _column(b["d"]) * scales, _column(b["m"]) * minima


def _quarters(q: Array) -> Array:
    """128 bytes as 8 groups of 32 values: each 32 bytes give two groups, the low halves first."""
    four = q.reshape(-1, 4, 1, 32)
    return np.concatenate((four & 0x0F, four >> 4), axis=2).reshape(-1, 8, 32)


def _q4_k(b: Array) -> Floats:
    scales, minima = _scales_and_minima(b)
    return (_quarters(b["q"]) * scales[..., None] - minima[..., None]).reshape(-1, 256)


def _q5_k(b: Array) -> Floats:
    scales, minima = _scales_and_minima(b)
    # Bit g of byte i of `high` is the fifth bit of value i of group g.
    high = b["high"][:, None, :] >> np.arange(8, dtype=np.uint8)[None, :, None]
    q = _quarters(b["q"]) | ((high & 1) << 4)
    return (q * scales[..., None] - minima[..., None]).reshape(-1, 256)


def _q6_k(b: Array) -> Floats:
    # Two halves of 128 values: 64 bytes of low four bits, 32 bytes of high two bits.
    low = b["low"].reshape(-1, 2, 1, 64)
    low = np.concatenate((low & 0x0F, low >> 4), axis=2).reshape(-1, 2, 4, 32)
    high = b["high"].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    q = (low | ((high & 3) << 4)).astype(np.int8) - 32
    scales = _column(b["d"]) * b["scales"]  # (n, 16): one for 16 values
    return (q.reshape(-1, 16, 16) * scales[..., None]).reshape(-1, 256)


_EXPAND: dict[str, Callable[[Array], Floats]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
