"""TensorFlow's checkpoints (its "V2 bundle"), read without TensorFlow.

``PREFIX.index`` is a sorted table from the name of a variable to a small protobuf message (type,
shape, shard, offset, size, checksum); ``PREFIX.data-00000-of-00001`` ... hold the raw numbers
(tensorflow/core/protobuf/tensor_bundle.proto). Nothing in either is code.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from langwright.base import UserError, read_untrusted, regular_file_size
from langwright.formats.crc32c import crc32c, masked
from langwright.formats.leveldb_table import read_table
from langwright.formats.wire import fields

MOST_INDEX_BYTES = 2**24  # GPT-2's largest has 15 kB
MOST_SHARDS = 10_000
MOST_DIMENSIONS = 8
# tensorflow/core/framework/types.proto; bfloat16 has no numpy type and is widened by its bits.
TYPES = {1: "float32", 2: "float64", 19: "float16", 14: "bfloat16", 3: "int32", 9: "int64"}
FLOATS = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True)
class Variable:
    """Where a variable lies: `size` bytes at `offset` of data file `shard`."""

    type: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


class TensorFlowCheckpoint:
    """The variables of a checkpoint; each is read when it is asked for.

    Args:
        prefix: the path without ".index": ``folder/model.ckpt``.

    Raises:
        UserError: the index is missing, damaged, or points outside the data files.
    """

    def __init__(self, prefix: str | Path) -> None:
        self.prefix = Path(prefix)
        self.index = self.prefix.with_name(self.prefix.name + ".index")
        table = self._read_index()
        if b"" not in table:
            raise self._damaged("it has no header")
        try:
            self._shards = _read_header(table.pop(b""))
            self.variables = {
                name.decode("utf-8"): _read_variable(message) for name, message in table.items()
            }
        except ValueError as error:
            raise self._damaged(str(error)) from None
        self._check_places()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of variable `name`."""
        return self.variables[name].shape

    def read(self, name: str, check_sum: bool = True) -> np.ndarray:
        """Variable `name` in memory of its own; bfloat16 is widened to float32.

        Raises:
            UserError: its checksum differs, or the file cannot be read.
        """
        variable = self.variables[name]
        path = self._data_path(variable.shard)
        try:
            raw = np.fromfile(path, np.uint8, variable.size, offset=variable.offset)
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", where=path) from None
        if len(raw) != variable.size or (check_sum and masked(crc32c(raw)) != variable.checksum):
            raise UserError(
                f"variable {name} is damaged: its checksum differs",
                where=path,
                fix="fetch the file again",
            )
        if variable.type == "bfloat16":
            wide = raw.view(np.dtype("<u2")).astype(np.uint32) << 16
            return wide.view(np.float32).reshape(variable.shape)
        return raw.view(np.dtype(variable.type).newbyteorder("<")).reshape(variable.shape)

    def data_files(self) -> list[Path]:
        """The files with the numbers."""
        return [self._data_path(shard) for shard in range(self._shards)]

    def _read_index(self) -> dict[bytes, bytes]:
        content = read_untrusted(self.index, MOST_INDEX_BYTES)
        try:
            return read_table(content)
        except ValueError as error:
            raise self._damaged(str(error)) from None

    def _damaged(self, why: str) -> UserError:
        return UserError(
            f"not a whole index of a TensorFlow checkpoint: {why}",
            where=self.index,
            fix="fetch the file again",
        )

    def _check_places(self) -> None:
        """Every variable lies inside its data file, and no two share a byte."""
        by_place = sorted(self.variables.items(), key=lambda item: (item[1].shard, item[1].offset))
        shard, end, there = -1, 0, 0
        for name, variable in by_place:
            if variable.shard >= self._shards:
                raise self._damaged(f"{name} lies in shard {variable.shard} of {self._shards}")
            if variable.shard != shard:
                shard, end, there = (
                    variable.shard,
                    0,
                    regular_file_size(self._data_path(variable.shard)),
                )
            if variable.offset < end:
                raise self._damaged(f"{name} overlaps another variable")
            end = variable.offset + variable.size
            if end > there:
                raise UserError(
                    f"variable {name} lies beyond the end of the file",
                    where=self._data_path(shard),
                    found=f"{there:,} bytes",
                    expected=f"at least {end:,}",
                    fix="the download was cut off: fetch the file again",
                )

    def _data_path(self, shard: int) -> Path:
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05d}-of-{self._shards:05d}")


def _read_header(message: bytes) -> int:
    """Number of shards, of the message BundleHeaderProto; big-endian files are refused."""
    values = dict(fields(message))
    shards, endianness = values.get(1, 0), values.get(2, 0)
    if not isinstance(shards, int) or not 1 <= shards <= MOST_SHARDS:
        raise ValueError("a wrong number of data files")
    if endianness != 0:
        raise ValueError("its numbers are big-endian, which only old mainframes wrote")
    return shards


def _read_variable(message: bytes) -> Variable:
    """The message BundleEntryProto."""
    numbers = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}  # type, shard, offset, size, checksum
    shape: tuple[int, ...] = ()
    for field, value in fields(message):
        if field == 2 and isinstance(value, bytes):
            shape = _read_shape(value)
        elif field == 7:
            raise ValueError("a variable is stored in slices (a partitioned variable)")
        elif field in numbers and isinstance(value, int):
            numbers[field] = value
    kind, shard, offset, size, checksum = numbers.values()
    if kind not in TYPES:
        raise ValueError(f"a variable has TensorFlow's type number {kind}, which is not read")
    width = 2 if TYPES[kind] == "bfloat16" else np.dtype(TYPES[kind]).itemsize
    if size != prod(shape) * width:
        raise ValueError("the bytes of a variable are not those of its shape")
    return Variable(TYPES[kind], shape, shard, offset, size, checksum)


def _read_shape(message: bytes) -> tuple[int, ...]:
    """The message TensorShapeProto."""
    sizes = []
    for field, value in fields(message):
        if field == 2 and isinstance(value, bytes):
            size = dict(fields(value)).get(1, 0)
            if not isinstance(size, int) or size >= 2**40:
                raise ValueError("a dimension of a variable is out of range")
            sizes.append(size)
        elif field == 3 and value:
            raise ValueError("a variable has no fixed shape")
    if len(sizes) > MOST_DIMENSIONS:
        raise ValueError("a variable has too many dimensions")
    return tuple(sizes)
