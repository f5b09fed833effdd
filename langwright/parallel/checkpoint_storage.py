"""Where `torch.distributed.checkpoint` writes: safetensors files and one JSON index, no pickle.

    model-00000.safetensors       pieces of weights that process 0 wrote
    optimizer-00000.safetensors   and of the optimizer's state
    pieces.json                   every tensor: type, shape, and where each piece lies

A tensor's name is "<kind>/<rest>"; pieces of one kind stand in a file of their own, so weights can
be read without the rest. A piece that is the whole tensor is stored under its plain name, another
one under ``<name>@<first index in each dimension>``.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint import StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from langwright.base import UserError, read_json, sha256_file, write_json

INDEX = "pieces.json"
FORMAT = 1
WHOLE_FILES = {"model": "model.safetensors", "optimizer": "optimizer.safetensors"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class StoredPiece(_Strict):
    """Where a piece of a tensor lies: in the whole tensor, and on disk."""

    start: list[NonNegativeInt]
    shape: list[NonNegativeInt]
    file: str
    key: str


class StoredTensor(_Strict):
    """A tensor of a checkpoint."""

    dtype: str  # such as "float32"
    shape: list[NonNegativeInt]
    pieces: list[StoredPiece]


class Index(_Strict):
    """The content of pieces.json."""

    format: int
    tensors: dict[str, StoredTensor]


@dataclass(frozen=True)
class Written:
    """What a process tells of a piece that it has written."""

    file: str
    key: str
    file_bytes: int
    sha256: str  # of the file


class SafetensorsWriter(StorageWriter):
    """Every process writes its pieces to files of its own in `folder`, which all of them see.

    Afterwards `files` has, on the first process, size and SHA-256 of all files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, dict[str, Any]] = {}

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begin another checkpoint."""
        self.files = {}

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Make an empty folder."""
        if is_coordinator:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Nothing to do."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Tell every process its number."""
        return [replace(plan, storage_data=number) for number, plan in enumerate(plans)]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this process's pieces, a file for each kind."""
        kinds: dict[str, dict[str, Any]] = {}  # kind -> key -> what is to be written
        for item in plan.items:
            kind, _, name = item.index.fqn.partition("/")
            assert item.tensor_data is not None
            key = _key(name, item.tensor_data.chunk, item.tensor_data.size)
            kinds.setdefault(kind, {})[key] = item
        results = []
        for kind, items in kinds.items():
            path = self.folder / f"{kind}-{plan.storage_data:05d}.safetensors"
            tensors = {key: _tensor(planner.resolve_data(item)) for key, item in items.items()}
            _save(tensors, path)
            size, digest = path.stat().st_size, sha256_file(path)
            for key, item in items.items():
                note = Written(path.name, key, size, digest)
                results.append(WriteResult(item.index, tensors[key].nbytes, note))
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Check that the pieces of all processes are there and whole, and write the index."""
        written = {
            (r.index.fqn, _ints(r.index.offset)): r.storage_data for some in results for r in some
        }
        tensors = {}
        for name, tensor in metadata.state_dict_metadata.items():
            assert isinstance(tensor, TensorStorageMetadata)
            if sum(math.prod(c.sizes) for c in tensor.chunks) != math.prod(tensor.size):
                raise ValueError(f"the processes do not hold all of {name}, or hold it twice")
            pieces = []
            for chunk in tensor.chunks:
                note = written[name, _ints(chunk.offsets)]
                pieces.append(
                    StoredPiece(
                        start=list(chunk.offsets),
                        shape=list(chunk.sizes),
                        file=note.file,
                        key=note.key,
                    )
                )
            dtype = str(tensor.properties.dtype).removeprefix("torch.")
            tensors[name] = StoredTensor(dtype=dtype, shape=list(tensor.size), pieces=pieces)
        for note in written.values():
            self.files[note.file] = {"bytes": note.file_bytes, "sha256": note.sha256}
        self._check_shared()
        index = self.folder / INDEX
        write_json(index, Index(format=FORMAT, tensors=tensors).model_dump())
        self.files[INDEX] = {"bytes": index.stat().st_size, "sha256": sha256_file(index)}

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any path will do."""
        return True

    def _check_shared(self) -> None:
        for name, expected in self.files.items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size != expected["bytes"]:
                raise UserError(
                    "another process wrote a file that cannot be seen from the first one",
                    where=path,
                    fix="put the run into a folder that all machines share",
                )


class SafetensorsReader(StorageReader):
    """Reads any slices of the tensors of a checkpoint folder, whoever wrote it: several processes
    (with an index), or one (model.safetensors and optimizer.safetensors hold whole tensors)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index: Index | None = None

    @property
    def index(self) -> Index:
        """What is in the folder.

        Raises:
            UserError: it holds no checkpoint, or a broken index.
        """
        if self._index is None:
            path = self.folder / INDEX
            self._index = _read_index(path) if path.exists() else _index_of_whole(self.folder)
        return self._index

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Nothing is kept between two reads."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index, as `torch.distributed.checkpoint` has it."""
        tensors: dict[str, Any] = {}
        stored = {}
        for name, tensor in self.index.tensors.items():
            chunks = []
            for piece in tensor.pieces:
                start, shape = torch.Size(piece.start), torch.Size(piece.shape)
                chunks.append(ChunkStorageMetadata(start, shape))
                stored[MetadataIndex(name, start)] = piece
            properties = TensorProperties(dtype=_dtype(tensor.dtype))
            tensors[name] = TensorStorageMetadata(properties, torch.Size(tensor.shape), chunks)
        return Metadata(tensors, storage_data=stored)

    def set_up_storage_reader(
        self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Keep where the pieces lie."""
        self._stored = metadata.storage_data

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Nothing to do."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Nothing to do."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy the slices that were asked for, file by file, a slice at a time."""
        by_file: dict[str, list[tuple[Any, StoredPiece]]] = {}
        for item in plan.items:
            piece = self._stored[item.storage_index]
            by_file.setdefault(piece.file, []).append((item, piece))
        for name, wanted in by_file.items():
            with safe_open(self.folder / name, framework="pt") as file:
                for item, piece in wanted:
                    offsets, lengths = _ints(item.storage_offsets), _ints(item.lengths)
                    saved = _slice(file, piece, offsets, lengths, self.folder)
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(saved)
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any path will do."""
        return True


def _read_index(path: Path) -> Index:
    try:
        index = Index.model_validate(read_json(path))
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(
            f"broken index: {error.errors()[0]['msg']}", where=f"{path} {place}"
        ) from None
    if index.format != FORMAT:
        raise UserError("its index has another format", where=path, found=index.format)
    for name, tensor in index.tensors.items():
        _dtype(tensor.dtype)
        for piece in tensor.pieces:
            ends = [start + size for start, size in zip(piece.start, piece.shape)]
            rank = len(tensor.shape)
            fits = len(piece.start) == len(piece.shape) == rank
            if not fits or any(end > size for end, size in zip(ends, tensor.shape)):
                raise UserError(f"broken index: a piece of {name} lies outside it", where=path)
            if Path(piece.file).name != piece.file:
                raise UserError("broken index: not a plain file name", where=path, found=piece.file)
    return index


def _index_of_whole(folder: Path) -> Index:
    """The index of a checkpoint that one process wrote, from the headers of its files."""
    tensors = {}
    for kind, name in WHOLE_FILES.items():
        if not (folder / name).exists():
            continue
        with safe_open(folder / name, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (not a dict)
                view = file.get_slice(key)
                shape, dtype = list(view.get_shape()), _DTYPES[view.get_dtype()]
                piece = StoredPiece(start=[0] * len(shape), shape=shape, file=name, key=key)
                tensors[f"{kind}/{key}"] = StoredTensor(dtype=dtype, shape=shape, pieces=[piece])
    if not tensors:
        raise UserError("this folder holds no checkpoint", where=folder)
    return Index(format=FORMAT, tensors=tensors)


_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def _dtype(name: str) -> torch.dtype:
    if name not in _DTYPES.values():
        raise UserError("a checkpoint has no tensors of this type", found=name)
    return getattr(torch, name)


def _slice(file: Any, piece: StoredPiece, start: Any, shape: Any, folder: Path) -> Tensor:
    try:
        view = file.get_slice(piece.key)
        if list(view.get_shape()) != piece.shape:
            raise UserError("the index and the file disagree", where=folder, found=piece.key)
        if not piece.shape:
            return file.get_tensor(piece.key)
        return view[tuple(slice(a, a + n) for a, n in zip(start, shape))]
    except SafetensorError as error:
        raise UserError(f"cannot be read: {error}", where=folder / piece.file) from None


def _key(name: str, chunk: Any, shape: torch.Size) -> str:
    whole = tuple(chunk.sizes) == tuple(shape)
    return name if whole else f"{name}@{','.join(map(str, chunk.offsets))}"


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError("a checkpoint holds tensors; everything else belongs into its state.json")
    return value.detach().cpu().contiguous()


def _ints(values: Iterable[int] | None) -> tuple[int, ...]:
    return tuple(int(value) for value in values or ())


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
