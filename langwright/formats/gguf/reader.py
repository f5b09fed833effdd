"""A GGUF file, read with suspicion.

The format (version 3, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): a header, a
table of metadata, a table of tensors, padding, then the tensors' bytes. Every count, length and
offset is compared with what is left of the file before anything is made of it, so a short file
cannot ask for much memory. The file is mapped, not read: a tensor's bytes are touched when asked.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from langwright.base import UserError, regular_file_size
from langwright.formats.gguf.dequantise import Floats, dequantise
from langwright.formats.gguf.kinds import BY_CODE, KINDS, OTHER_NAMES, Kind

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 3 differs from 2 only in allowing big-endian files
MOST_ENTRIES = 1 << 16  # of metadata, and tensors
MOST_STRINGS = 1 << 22  # in the whole file: tokens and merges
LONGEST_NAME = 1 << 10
LONGEST_STRING = 1 << 22  # bytes; chat templates are the longest
MOST_VALUES = 1 << 40  # in one tensor
STRING, ARRAY = 8, 9
# Metadata type -> (struct code, bytes)
NUMBERS = {
    0: ("<B", 1),
    1: ("<b", 1),
    2: ("<H", 2),
    3: ("<h", 2),
    4: ("<I", 4),
    5: ("<i", 4),
    6: ("<f", 4),
    7: ("<?", 1),
    10: ("<Q", 8),
    11: ("<q", 8),
    12: ("<d", 8),
}
FLOAT32, BOOL = 6, 7


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies. `shape` is in the order of numpy and torch: rows first."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    start: int  # from the beginning of the file

    @property
    def values(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.kind.nbytes(self.values)


class GgufFile:
    """An open GGUF file: `metadata` by key, `tensors` by name; tensors are read one at a time.

    Metadata are Python values: int, float, bool, str, lists of str, and numpy arrays of numbers.

    Raises:
        UserError: on opening, if anything in the file's tables is not as the format has it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._map = self._open()
        try:
            cursor = _Cursor(self._map, self.path)
            count = cursor.header()
            self.metadata = cursor.metadata()
            self.tensors = cursor.tensors(count, self._alignment())
        except BaseException:
            self._map.close()
            raise

    def _open(self) -> mmap.mmap:
        if regular_file_size(self.path) == 0:
            raise UserError("the file is empty", where=self.path, expected="a GGUF file")
        try:
            with open(self.path, "rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise UserError(f"cannot be read: {error}", where=self.path) from None

    def _alignment(self) -> int:
        value = self.metadata.get("general.alignment", 32)
        if type(value) is not int or not 1 <= value <= 1 << 16 or value & (value - 1):
            raise UserError(
                "bad alignment of the tensors",
                where=f"{self.path} general.alignment",
                found=repr(value)[:80],
                expected="a power of two up to 65536",
            )
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._map.close()

    def read(self, name: str, check_finite: bool = True) -> Floats:
        """The tensor `name` as a new float32 array."""
        info = self.tensors[name]
        with memoryview(self._map) as whole, whole[info.start :][: info.nbytes] as data:
            values = dequantise(data, info.kind, info.values)
        if check_finite and not np.isfinite(values).all():
            raise UserError(
                f"tensor {name} holds NaN or infinite values",
                where=self.path,
                found=f"{int((~np.isfinite(values)).sum()):,} of {values.size:,}",
                expected="finite weights",
                fix="the file is damaged, or the training that made it diverged",
            )
        return values.reshape(info.shape)

    def raw(self, name: str) -> bytes:
        """The bytes of the tensor `name` as they are stored."""
        info = self.tensors[name]
        return self._map[info.start : info.start + info.nbytes]

    def same_bytes(self, one: TensorInfo, other: TensorInfo) -> bool:
        """Whether two tensors are stored as the same bytes."""
        step = 1 << 20
        return one.nbytes == other.nbytes and all(
            self._map[one.start + at : one.start + min(at + step, one.nbytes)]
            == self._map[other.start + at : other.start + min(at + step, one.nbytes)]
            for at in range(0, one.nbytes, step)
        )


class _Cursor:
    """Reads the tables of a file from its beginning; knows how much is left."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path = data, path
        self.at, self.end = 0, len(data)
        self.strings = 0
        self.entries = 0

    def fail(
        self, message: str, what: str = "", found: object = None, expected: object = None
    ) -> NoReturn:
        """Raise a `UserError` at this place of the file."""
        where = f"{self.path} {what}".rstrip() + f" (byte {self.at:,})"
        raise UserError(
            message, where=where, found=found, expected=expected, fix="fetch the file again"
        )

    def take(self, size: int, what: str) -> bytes:
        """The next `size` bytes."""
        if size > self.end - self.at:
            self.fail("the file ends too early", what, f"{self.end - self.at:,} bytes left", size)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, kind: int, what: str) -> Any:
        """One number of a metadata type; float32 as the shortest decimal that it stands for."""
        code, size = NUMBERS[kind]
        raw = self.take(size, what)
        if kind == BOOL and raw not in (b"\0", b"\1"):
            self.fail("not a yes or no", what, raw[0], "0 or 1")
        (value,) = struct.unpack(code, raw)
        return float(str(np.float32(value))) if kind == FLOAT32 else value

    def string(self, what: str, longest: int = LONGEST_STRING) -> str:
        """A length and so many bytes of UTF-8."""
        length = self.number(10, what)
        if length > longest:
            self.fail("a text is too long", what, f"{length:,} bytes", f"at most {longest:,}")
        self.strings += 1
        if self.strings > MOST_STRINGS:
            self.fail("the file holds too many texts", what, expected=f"at most {MOST_STRINGS:,}")
        raw = self.take(length, what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self.fail("a text is not UTF-8", what, found=repr(raw[:40]))

    def header(self) -> int:
        """Check the beginning; returns the number of tensors."""
        magic = self.take(4, "header")
        if magic != MAGIC:
            self.fail("not a GGUF file", "", found=repr(magic), expected=repr(MAGIC))
        version = self.number(4, "header")
        if version not in VERSIONS:
            big = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            self.fail(
                "this version of GGUF is not read",
                "header",
                found="a big-endian file" if big else version,
                expected=" or ".join(map(str, VERSIONS)),
            )
        tensors, self.entries = self.number(10, "header"), self.number(10, "header")
        for count, what in ((tensors, "tensors"), (self.entries, "metadata entries")):
            if count > MOST_ENTRIES:
                self.fail(f"too many {what}", "header", f"{count:,}", f"at most {MOST_ENTRIES:,}")
        return int(tensors)

    def metadata(self) -> dict[str, Any]:
        """The table of keys and values."""
        table: dict[str, Any] = {}
        for index in range(self.entries):
            key = self.string(f"key {index}", LONGEST_NAME)
            if key in table:
                self.fail("a key appears twice", key)
            kind = self.number(4, key)
            table[key] = self.array(key) if kind == ARRAY else self.value(kind, key)
        return table

    def value(self, kind: int, what: str) -> Any:
        """One value that is no array."""
        if kind == STRING:
            return self.string(what)
        if kind not in NUMBERS:
            self.fail("unknown type of a value", what, kind, "0 to 12")
        return self.number(kind, what)

    def array(self, what: str) -> Any:
        """Several values of one type: numbers as a numpy array, texts as a list."""
        kind, count = self.number(4, what), self.number(10, what)
        if kind not in NUMBERS and kind != STRING:
            self.fail("unknown type of the values of an array", what, kind, "numbers or texts")
        smallest = 8 if kind == STRING else NUMBERS[kind][1]
        if count > (self.end - self.at) // smallest:
            self.fail("an array is longer than the file", what, f"{count:,} values")
        if kind == STRING:
            return [self.string(what) for _ in range(count)]
        code, size = NUMBERS[kind]
        raw = self.take(count * size, what)
        return np.frombuffer(raw, "u1" if kind == BOOL else code).astype(
            bool if kind == BOOL else code
        )

    def tensors(self, count: int, alignment: int) -> dict[str, TensorInfo]:
        """The table of tensors, with every extent checked against the file and each other."""
        raw = [self.tensor(index) for index in range(count)]
        base = -(-self.at // alignment) * alignment
        table: dict[str, TensorInfo] = {}
        for name, shape, kind, offset in raw:
            if name in table:
                self.fail("a tensor appears twice", name)
            if offset % alignment:
                self.fail("a tensor is not aligned", name, offset, f"a multiple of {alignment}")
            table[name] = info = TensorInfo(name, shape, kind, base + offset)
            if info.start + info.nbytes > self.end:
                self.fail(
                    "a tensor reaches beyond the end of the file",
                    name,
                    f"bytes {info.start:,} to {info.start + info.nbytes:,}",
                    f"at most {self.end:,}",
                )
        before: TensorInfo | None = None
        for info in sorted(table.values(), key=lambda one: one.start):
            if before is not None and info.start < before.start + before.nbytes:
                self.fail("two tensors overlap", info.name, found=f"begins inside {before.name}")
            before = info
        return table

    def tensor(self, index: int) -> tuple[str, tuple[int, ...], Kind, int]:
        """One entry of the table of tensors: name, shape, kind, offset."""
        name = self.string(f"tensor {index}", LONGEST_NAME)
        dims = self.number(4, name)
        if not 1 <= dims <= 4:
            self.fail("a tensor has 1 to 4 dimensions", name, dims)
        # The file has the fastest dimension first.
        shape = tuple(self.number(10, name) for _ in range(dims))[::-1]
        values = 1
        for size in shape:
            values *= size
        if not 1 <= values <= MOST_VALUES:
            self.fail("impossible size of a tensor", name, " x ".join(map(str, shape)))
        code = self.number(4, name)
        kind = BY_CODE.get(code)
        if kind is None:
            self.fail(
                "this way to store numbers is not read",
                name,
                OTHER_NAMES.get(code, code),
                ", ".join(one.name for one in KINDS),
            )
        if shape[-1] % kind.block:
            self.fail(
                "the rows of a tensor are not whole blocks",
                name,
                shape[-1],
                f"a multiple of {kind.block} ({kind.name})",
            )
        return name, shape, kind, self.number(10, name)
