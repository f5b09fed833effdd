"""Weights over one file or several: ``model.safetensors``, or shards with an index.

The index (``model.safetensors.index.json``, the layout of transformers) says which file holds which
tensor. It is believed in nothing: files are looked for in the folder only, and what they really
hold must agree with it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langwright.base import UserError, atomic_path, read_untrusted_json, write_json
from langwright.formats.tensors import Planned, SafeFile, write_tensors

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD_NAME = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
MAX_SHARD_BYTES = 5_000_000_000
MOST_INDEX_BYTES = 32 * 2**20  # the index of a model of 671 billion has 9
MOST_SHARDS = 1000  # each stays open while a model is read
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Weights(contextlib.ExitStack):
    """The tensors of a model folder, whichever files they lie in; close it, or use `with`.

    Raises:
        UserError: naming the file (and tensor) that is missing, damaged, or not as the index says.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._file_of: dict[str, SafeFile] = {}
        try:
            if (folder / WEIGHTS).exists() or (folder / WEIGHTS).is_symlink():
                self.path = folder / WEIGHTS
                self._add(self.path)
            elif (folder / INDEX).exists() or (folder / INDEX).is_symlink():
                self.path = folder / INDEX
                self._add_shards()
            else:
                raise _no_weights(folder)
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> set[str]:
        """All tensors."""
        return set(self._file_of)

    def path_of(self, name: str) -> Path:
        """The file that tensor `name` lies in."""
        return self._file_of[name].path

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of tensor `name`."""
        return self._file_of[name].places[name].shape

    def check_shape(self, name: str, expected: tuple[int, ...]) -> None:
        """Raise unless tensor `name` is a float tensor of this shape."""
        self._file_of[name].check_shape(name, expected)

    def read(self, name: str, check_finite: bool) -> Tensor:
        """The tensor `name` on the CPU; see `SafeFile.read`."""
        return self._file_of[name].read(name, check_finite)

    def _add(self, path: Path) -> SafeFile:
        file = self.enter_context(SafeFile(path))
        for name in file.names:
            if name in self._file_of:
                raise UserError(
                    f"tensor {name} stands in two files",
                    where=path,
                    found=f"also in {self.path_of(name).name}",
                )
            self._file_of[name] = file
        return file

    def _add_shards(self) -> None:
        expected = _read_index(self.folder / INDEX)
        for shard in sorted(set(expected.values())):
            path = self.folder / shard
            if not path.exists():
                raise UserError(
                    "a part of the weights is missing",
                    where=path,
                    expected=f"one of {len(set(expected.values()))} files, by {INDEX}",
                    fix="fetch it too",
                )
            self._add(path)
        for name, shard in expected.items():
            if name not in self._file_of or self.path_of(name).name != shard:
                raise UserError(
                    f"tensor {name} is not in the file that the index names",
                    where=self.folder / shard,
                    fix=f"{INDEX} belongs to other files than these",
                )
        unnamed = sorted(self.names - expected.keys())
        if unnamed:
            raise UserError(
                f"{len(unnamed)} tensors that {INDEX} does not name",
                where=self.path_of(unnamed[0]),
                found=", ".join(unnamed[:5]),
            )


def _read_index(path: Path) -> dict[str, str]:
    """Tensor -> name of its file, from an index; only plain names in the same folder pass."""
    table = read_untrusted_json(path, MOST_INDEX_BYTES, unique_names=True)
    places = table.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise UserError("the index has no weight_map", where=path, expected="tensor: file")
    for name, shard in places.items():
        if not isinstance(shard, str) or not _is_plain(shard):
            raise UserError(
                "the index points to something that is no weights file of this folder",
                where=path,
                found=f"{name!r}: {shard!r}"[:200],
                expected="the name of a .safetensors file beside the index",
            )
    if (count := len(set(places.values()))) > MOST_SHARDS:
        raise UserError("too many files", where=path, found=count, expected=f"≤ {MOST_SHARDS}")
    return places


def _is_plain(shard: str) -> bool:
    """A file name without any folder, on every system."""
    return re.fullmatch(r"[\w][\w.+-]{0,200}\.safetensors", shard, re.ASCII) is not None


def write_weights(
    folder: Path, planned: Sequence[Planned], dtype: torch.dtype, max_shard_bytes: int
) -> None:
    """Write the weights as one file or, beyond `max_shard_bytes`, as shards with an index.

    Earlier weights in `folder` are replaced. At every moment the folder holds the old weights, the
    new ones, or a set that `Weights` refuses; never some of each.
    """
    shards = _plan(planned, dtype, max_shard_bytes)
    if len(shards) == 1:
        with atomic_path(folder / WEIGHTS) as temporary:
            write_tensors(temporary, planned, dtype)
        (folder / INDEX).unlink(missing_ok=True)
        _remove_shards(folder, keep=set())
        return
    (folder / INDEX).unlink(missing_ok=True)  # its files are about to change
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        with atomic_path(folder / name) as temporary:
            write_tensors(temporary, shard, dtype)
        places |= {one.name: name for one in shard}
    total = sum(one.size(dtype) for one in planned)
    index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": places}
    write_json(folder / INDEX, index)
    (folder / WEIGHTS).unlink(missing_ok=True)
    _remove_shards(folder, keep=set(places.values()))


def _plan(
    planned: Sequence[Planned], dtype: torch.dtype, max_shard_bytes: int
) -> list[list[Planned]]:
    """Tensors in their order, as many to a file as fit; a larger one has a file of its own."""
    if max_shard_bytes < 1:
        raise UserError("a file needs room", where="max_shard_bytes", found=max_shard_bytes)
    shards: list[list[Planned]] = [[]]
    used = 0
    for one in planned:
        size = one.size(dtype)
        if shards[-1] and used + size > max_shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(one)
        used += size
    return shards


def _remove_shards(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        if SHARD_NAME.fullmatch(path.name) and path.name not in keep:
            path.unlink()


def _no_weights(folder: Path) -> UserError:
    pickles = sorted(item.name for pattern in PICKLES for item in folder.glob(pattern))
    if pickles:
        return UserError(
            "the weights are a Python pickle, which can run code when it is read; Langwright never "
            "opens one",
            where=folder / pickles[0],
            expected=WEIGHTS,
            fix="convert it where you trust it: transformers' save_pretrained writes safetensors",
        )
    return UserError("the weights are missing", where=folder, expected=f"{WEIGHTS} or {INDEX}")
