"""Writing GGUF files (version 3), a tensor at a time."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from langwright.base import UserError, atomic_path
from langwright.formats.gguf.dequantise import Floats
from langwright.formats.gguf.kinds import Kind
from langwright.formats.gguf.quantise import quantise
from langwright.formats.gguf.reader import ARRAY, BOOL, FLOAT32, MAGIC, STRING

ALIGNMENT = 32
UINT32, INT32, UINT64 = 4, 5, 10


@dataclass(frozen=True)
class OutTensor:
    """A tensor to write: `values` gives its numbers (float32, of this shape) when it is its turn,
    so that no two tensors need be there at once."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    values: Callable[[], Floats]

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""
        return self.kind.nbytes(int(np.prod(self.shape, dtype=object)))


def write_gguf(path: str | Path, metadata: Mapping[str, Any], tensors: Sequence[OutTensor]) -> None:
    """Write a file by atomic rename.

    Args:
        path: of the file.
        metadata: bool, int (stored as uint32), float (float32), str, lists of str, of ints (int32)
            and of floats (float32).
        tensors: written in this order.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
        for key, value in metadata.items():
            file.write(_string(key) + _value(key, value))
        offset = 0
        for tensor in tensors:
            file.write(_string(tensor.name) + struct.pack("<I", len(tensor.shape)))
            file.write(struct.pack(f"<{len(tensor.shape)}Q", *reversed(tensor.shape)))
            file.write(struct.pack("<IQ", tensor.kind.code, offset))
            offset += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
        _pad(file)
        for tensor in tensors:
            file.write(_packed(tensor))
            _pad(file)


def _packed(tensor: OutTensor) -> bytes:
    """The tensor's bytes; numbers that its kind cannot hold are refused."""
    values = tensor.values()
    assert values.shape == tensor.shape, tensor.name
    # Half precision ends at 65504, which is also the largest scale of a quantised block.
    largest = {"F16": 65504.0, "Q8_0": 127 * 65504.0, "Q4_0": 8 * 65504.0}.get(
        tensor.kind.name, float(np.finfo(np.float32).max)
    )
    found = float(np.abs(values).max())
    if not found <= largest:  # a NaN too
        raise UserError(
            f"tensor {tensor.name} holds numbers that {tensor.kind.name} cannot store",
            found=f"up to {found:g}",
            expected=f"at most {largest:g}",
            fix="write it as f32 or bf16",
        )
    return quantise(values, tensor.kind)


def _pad(file: BinaryIO) -> None:
    file.write(b"\0" * (-file.tell() % ALIGNMENT))


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def _value(key: str, value: Any) -> bytes:
    """A value with its type before it."""
    if isinstance(value, bool):
        return struct.pack("<IB", BOOL, value)
    if isinstance(value, int):
        if not 0 <= value < 1 << 32:
            raise UserError("a number does not fit a GGUF file", where=key, found=value)
        return struct.pack("<II", UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", FLOAT32, value)
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _string(value)
    return struct.pack("<I", ARRAY) + _array(value)


def _array(values: Sequence[Any]) -> bytes:
    """The values of a list with their type and number."""
    if all(isinstance(one, str) for one in values):
        return struct.pack("<IQ", STRING, len(values)) + b"".join(map(_string, values))
    if all(isinstance(one, bool) for one in values):
        return struct.pack("<IQ", BOOL, len(values)) + bytes(values)
    if all(isinstance(one, int) for one in values):
        return struct.pack(f"<IQ{len(values)}i", INT32, len(values), *values)
    return struct.pack(f"<IQ{len(values)}f", FLOAT32, len(values), *values)
