"""Safetensors files, read with suspicion: every complaint names the file and the tensor.

The format: 8 bytes with the size of a JSON header, the header (name -> type, shape, first and last
byte), then the numbers. We read it ourselves, tensor by tensor into memory of our own: the library
maps the whole file, which counts as a second copy of the model, and a map of a file that somebody
cuts off kills the process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeGuard

import torch
from torch import Tensor

from langwright.base import UserError, parse_untrusted_json, regular_file_size

MOST_HEADER_BYTES = 16 * 2**20  # a shard of the largest models has about one
MOST_DIMENSIONS, MOST_NAME_CHARACTERS = 8, 512
# Every type of the format, by its bits; those that we read are below.
TYPES = {
    4: ["F4"],
    6: ["F6_E2M3", "F6_E3M2"],
    8: ["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"],
    16: ["I16", "U16", "F16", "BF16"],
    32: ["I32", "U32", "F32"],
    64: ["I64", "U64", "F64", "C64"],
}
BITS = {name: bits for bits, names in TYPES.items() for name in names}
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in FLOATS.items()}


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: bytes `start` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


class SafeFile:
    """An open safetensors file; tensors are read one at a time.

    The header is parsed and checked on opening: every tensor lies inside the file, has as many
    bytes as its shape says, and shares none with another. No tensor is read before it is asked for.

    Raises:
        UserError: naming the file, and the tensor where one is at fault.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        size = regular_file_size(self.path)
        try:
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115  # closed by __exit__
        except OSError as error:
            raise UserError(f"cannot be read: {error}", where=self.path) from None
        try:
            self.places = self._read_header(size)
        except BaseException:
            self._file.close()
            raise

    @property
    def names(self) -> list[str]:
        """The tensors in it."""
        return list(self.places)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def check_shape(self, name: str, expected: tuple[int, ...]) -> None:
        """Raise unless tensor `name` is a float tensor of this shape (only the header is read)."""
        place = self.places[name]
        if place.shape != tuple(expected):
            raise UserError(
                f"tensor {name} has another shape than config.json says",
                where=self.path,
                found=place.shape,
                expected=tuple(expected),
            )
        if place.dtype not in FLOATS:
            raise UserError(
                f"tensor {name} is stored in a format that we do not read",
                where=self.path,
                found=place.dtype,
                expected=" or ".join(FLOATS),
            )

    def read(self, name: str, check_finite: bool) -> Tensor:
        """The tensor `name` on the CPU, in the type it is stored in; memory of its own."""
        place = self.places[name]
        buffer = torch.empty(place.end - place.start, dtype=torch.uint8)
        view, done = memoryview(buffer.numpy()), 0  # type: ignore[arg-type]
        self._file.seek(place.start)
        while done < len(view):  # one call reads 2 GB at most
            count = self._file.readinto(view[done:])
            if not count:
                raise UserError(f"the file ended inside tensor {name}", where=self.path)
            done += count
        tensor = buffer.view(FLOATS[place.dtype]).reshape(place.shape)
        if check_finite:
            check_finite_tensor(tensor, name, self.path)
        return tensor

    def _read_header(self, size: int) -> dict[str, Place]:
        start = self._file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or 8 + length > size:
            raise self._damaged("it ends inside its header")
        if length > MOST_HEADER_BYTES:
            raise self._damaged(f"its header has {length:,} bytes, more than {MOST_HEADER_BYTES:,}")
        text = self._file.read(length)
        if len(text) < length or not text.startswith(b"{"):
            raise self._damaged("it has no header")
        header = parse_untrusted_json(text, f"{self.path} (header)", unique_names=True)
        metadata = header.pop("__metadata__", None)
        if metadata is not None and not _are_texts(metadata):
            raise self._damaged("__metadata__ is not a table of texts")
        data = 8 + length
        places = {name: self._place(name, entry, data, size) for name, entry in header.items()}
        self._check_overlap(places, data, size)
        return places

    def _place(self, name: str, entry: Any, data: int, size: int) -> Place:
        """One entry of the header, checked; `data` is where the tensors begin."""
        if not (name.isascii() and name.isprintable() and len(name) <= MOST_NAME_CHARACTERS):
            raise self._damaged("a tensor's name is not plain text", name)
        fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
        dtype, shape, ends = fields.get("dtype"), fields.get("shape"), fields.get("data_offsets")
        if not isinstance(dtype, str) or dtype not in BITS:
            raise self._damaged(f"tensor {name} has no known type", dtype)
        if not _are_sizes(shape) or len(shape) > MOST_DIMENSIONS:
            raise self._damaged(f"tensor {name} has no shape", shape)
        if not _are_sizes(ends) or len(ends) != 2:
            raise self._damaged(f"tensor {name} has no place in the file", ends)
        start, end = ends
        if start > end or data + end > size:
            raise self._damaged(
                f"tensor {name} lies beyond the end of the file",
                f"bytes {data + start:,} to {data + end:,} of {size:,}",
            )
        if prod(shape) * BITS[dtype] != (end - start) * 8:
            raise self._damaged(
                f"tensor {name} has not as many bytes as its shape",
                f"{end - start:,} bytes for {dtype} {tuple(shape)}",
            )
        return Place(dtype, tuple(shape), data + start, data + end)

    def _check_overlap(self, places: dict[str, Place], data: int, size: int) -> None:
        """The tensors fill the rest of the file, one after another (the format asks for it)."""
        at = data
        for name, place in sorted(places.items(), key=lambda item: (item[1].start, item[1].end)):
            if place.start != at:
                what = "shares bytes with another" if place.start < at else "leaves a gap before it"
                raise self._damaged(f"tensor {name} {what}")
            at = place.end
        if at != size:
            raise self._damaged(f"{size - at:,} bytes after its last tensor")

    def _damaged(self, why: str, found: object = None) -> UserError:
        disguise = looks_like(self.path)
        lfs = disguise is not None and "Git LFS" in disguise
        return UserError(
            f"not a whole safetensors file: {why}",
            where=self.path,
            found=disguise or (None if found is None else repr(found)[:200]),
            fix="git lfs pull" if lfs else "fetch or write the file again",
        )


def check_finite_tensor(tensor: Tensor, name: str, path: object) -> None:
    """Raise if tensor `name` of file `path` holds NaN or infinite values."""
    if not tensor.numel():
        return
    low, high = torch.aminmax(tensor)  # both are NaN if any value is; no memory is taken
    if bool(torch.isfinite(low) & torch.isfinite(high)):
        return
    bad = sum(int((~torch.isfinite(row)).sum()) for row in tensor.flatten().split(2**22))
    raise UserError(
        f"tensor {name} holds NaN or infinite values",
        where=path,
        found=f"{bad:,} of {tensor.numel():,}",
        expected="finite weights",
        fix="the training that wrote it diverged, or the file is damaged",
    )


@dataclass(frozen=True)
class Planned:
    """A tensor that is to be written: `make` gives it, contiguous or not, when its turn comes."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]

    def size(self, dtype: torch.dtype) -> int:
        """Bytes it will take."""
        return prod(self.shape) * dtype.itemsize


def write_tensors(path: Path, planned: Sequence[Planned], dtype: torch.dtype) -> None:
    """Write one safetensors file, one tensor in memory at a time, as transformers expects it."""
    ordered = sorted(planned, key=lambda one: one.name)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for one in ordered:
        end = at + one.size(dtype)
        entry = {"dtype": NAMES[dtype], "shape": list(one.shape), "data_offsets": [at, end]}
        header[one.name], at = entry, end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for one in ordered:
            whole = one.make()
            tensor = whole.to("cpu", dtype).contiguous()
            if tuple(tensor.shape) != one.shape:
                raise ValueError(f"{one.name}: planned {one.shape}, got {tuple(tensor.shape)}")
            if dtype == torch.float16 and whole.dtype != dtype:
                _check_fits(whole, tensor, one.name)
            file.write(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _check_fits(before: Tensor, after: Tensor, name: str) -> None:
    """Numbers beyond 65,504 would become infinite in float16."""
    if after.numel() and bool(after.isinf().any()) and not bool(before.isinf().any()):
        raise UserError(
            f"{name} holds values too large for float16",
            found=f"{before.abs().max().item():g}",
            expected="at most 65504",
            fix="use bfloat16 or float32",
        )


def _are_sizes(value: Any) -> TypeGuard[list[int]]:
    """Whether `value` is a list of numbers that may be sizes."""
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**63 for one in value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def looks_like(path: Path) -> str | None:
    """What a file that is no safetensors file seems to be."""
    try:
        with open(path, "rb") as file:
            start = file.read(24)
    except OSError:
        return None
    pickled = start[:1] == b"\x80" and start[1:2] <= b"\x05" and any(start[3:8])
    if pickled or start.startswith(b"PK\x03\x04"):  # bare, or in the archive that torch.save makes
        return "a Python pickle under another name; it was not opened"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer: the file itself was never fetched"
    if start.startswith(b"GGUF"):
        return "a GGUF file under another name"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "a web page: the address it was fetched from wants a login, or is wrong"
    return "an empty file" if not start else None
