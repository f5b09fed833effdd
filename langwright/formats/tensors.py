"""Safetensors files, read with suspicion: every complaint names the file and the tensor."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from langwright.base import UserError

FLOATS = ("F32", "F16", "BF16")


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write CPU tensors to one safetensors file, readable by transformers."""
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={"format": "pt"})


class SafeFile:
    """An open safetensors file; tensors are read one at a time.

    The header (at most 100 MB by the format, checked by the library: no overlaps, nothing outside
    the file) is parsed on opening; no tensor is touched before it is asked for.
    """

    def __init__(self, path: str | Path) -> None:
        from safetensors import SafetensorError, safe_open

        self.path = Path(path)
        try:
            self._file = safe_open(self.path, framework="pt", device="cpu")
            self.names = list(self._file.keys())
        except FileNotFoundError:
            raise UserError("file not found", where=self.path) from None
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(
                f"not a whole safetensors file: {str(error)[:200]}",
                where=self.path,
                found=_looks_like(self.path),
                fix="fetch or write the file again",
            ) from None

    def __enter__(self) -> Self:
        self._file.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.__exit__(kind, error, trace)

    def check_shape(self, name: str, expected: tuple[int, ...]) -> None:
        """Raise unless tensor `name` is a float tensor of this shape (only the header is read)."""
        header = self._file.get_slice(name)
        shape = tuple(header.get_shape())
        if shape != expected:
            raise UserError(
                f"tensor {name} has another shape than config.json says",
                where=self.path,
                found=shape,
                expected=expected,
            )
        if (dtype := header.get_dtype()) not in FLOATS:
            raise UserError(
                f"tensor {name} is stored in a format that we do not read",
                where=self.path,
                found=dtype,
                expected=" or ".join(FLOATS),
            )

    def read(self, name: str, check_finite: bool) -> Tensor:
        """The tensor `name`, on the CPU."""
        tensor = self._file.get_tensor(name)
        if check_finite and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise UserError(
                f"tensor {name} holds NaN or infinite values",
                where=self.path,
                found=f"{bad:,} of {tensor.numel():,}",
                expected="finite weights",
                fix="the training that wrote it diverged, or the file is damaged",
            )
        return tensor


def _looks_like(path: Path) -> str | None:
    """What a file that is no safetensors file seems to be."""
    try:
        with open(path, "rb") as file:
            start = file.read(8)
    except OSError:
        return None
    if start.startswith((b"PK", b"\x80")):
        return "a Python pickle under another name; it was not opened"
    return "an empty file" if not start else None
