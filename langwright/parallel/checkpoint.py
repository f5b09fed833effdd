"""Checkpoints of a model that is spread over processes: each writes what it holds, and reads what
it needs, whatever the layout was when it was written.

`torch.distributed.checkpoint` plans who writes what, tells every process when one of them fails,
and works out which slices of the saved pieces a new layout needs. It is given `Piece`s, not
DTensors, since ours may be cut by more than one group.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from langwright.base import UserError
from langwright.optim import OptimizerSet
from langwright.parallel.checkpoint_storage import SafetensorsReader, SafetensorsWriter
from langwright.parallel.distributed import Distributed
from langwright.parallel.init import local_tensor
from langwright.parallel.optimizer import ShardedOptimizer
from langwright.parallel.pieces import Piece, whole_piece


def chunk_of(piece: Piece) -> ChunkStorageMetadata:
    """Where a piece lies, as `torch.distributed.checkpoint` says it."""
    starts = torch.Size([bound.start for bound in piece.bounds])
    return ChunkStorageMetadata(
        starts, torch.Size([bound.stop - bound.start for bound in piece.bounds])
    )


def write_pieces(folder: Path, pieces: Mapping[str, Piece], group: Any) -> dict[str, Any]:
    """Write the primary pieces of all processes to `folder`; all of them call this together.

    Args:
        folder: emptied; all processes must see it.
        pieces: by name, "<kind>/<rest>", with tensors on the CPU.
        group: of CPUs; nothing else may use it meanwhile. May be another thread's.

    Returns:
        On the first process size and SHA-256 of each file, elsewhere nothing.

    Raises:
        OSError, SafetensorError: a process could not write; raised on all.
    """
    writer = SafetensorsWriter(folder)
    _told(dcp.save, dict(pieces), storage_writer=writer, planner=_Saving(), process_group=group)
    return writer.files


def read_pieces(folder: Path, wanted: Mapping[str, Piece], group: Any = None) -> None:
    """Fill the tensors of `wanted` from a checkpoint's folder, however it was cut.

    Args:
        folder: written by `write_pieces`, or by one process alone.
        wanted: tensors to fill, by name; their `bounds` say which part.
        group: the processes that call this together; None: this one alone.

    Raises:
        UserError: something wanted is not in the checkpoint, or has another shape.
    """
    reader = SafetensorsReader(folder)
    _ = reader.index  # a broken one is told here
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        _told(
            dcp.load,
            dict(wanted),
            storage_reader=reader,
            planner=_Loading(folder),
            process_group=group,
            no_dist=group is None,
        )


def saved_tensors(folder: Path) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """(dtype, whole shape) of every tensor of a checkpoint, by name."""
    index = SafetensorsReader(folder).index
    return {
        name: (getattr(torch, tensor.dtype), tuple(tensor.shape))
        for name, tensor in index.tensors.items()
    }


def read_whole(folder: Path, prefix: str) -> dict[str, Tensor]:
    """All tensors under `prefix`, whole, on the CPU; names without it."""
    found = {
        name: torch.empty(shape, dtype=dtype)
        for name, (dtype, shape) in saved_tensors(folder).items()
        if name.startswith(prefix)
    }
    read_pieces(folder, {name: whole_piece(tensor) for name, tensor in found.items()})
    return {name.removeprefix(prefix): tensor for name, tensor in found.items()}


def restore(
    form: Distributed,
    folder: Path,
    optimizer: OptimizerSet | None = None,
    scalars: Mapping[str, Any] | None = None,
) -> None:
    """Give every process its part of a checkpoint, whatever layout has written it.

    Args:
        form: the model over the processes; all of them call this together.
        folder: of the checkpoint.
        optimizer: gets its state back, if given.
        scalars: of the optimizer's state, those of all processes.
    """
    wanted = {
        f"model/{name}": Piece(
            local_tensor(parameter), form.parts[name].shape, form.parts[name].bounds(form.layout)
        )
        for name, parameter in form.parameters.items()
    }
    tensors: dict[str, Tensor] = {}
    if optimizer is not None:
        here = set(optimizer.names.values())
        for key, (dtype, shape) in saved_tensors(folder).items():
            kind, _, rest = key.partition("/")
            name = rest.rpartition("/")[0]
            if kind == "optimizer" and name in here:
                bounds = _state_bounds(form, optimizer, name, shape)
                local = [bound.stop - bound.start for bound in bounds]
                tensors[rest] = torch.empty(local, dtype=dtype)
                wanted[key] = Piece(tensors[rest], shape, bounds)
    read_pieces(folder, wanted, form.control)
    form.forget_weights()
    if optimizer is not None:
        optimizer.load_state_dict({"tensors": tensors, "scalars": scalars or {}})
    if isinstance(optimizer, ShardedOptimizer):
        optimizer.refresh()


def _state_bounds(
    form: Distributed, optimizer: OptimizerSet, name: str, shape: tuple[int, ...]
) -> tuple[slice, ...]:
    """The part of an entry of the optimizer's state that belongs to this process."""
    cut = isinstance(optimizer, ShardedOptimizer) and name not in optimizer.owned
    if cut and shape == form.parts[name].shape:
        return form.parts[name].bounds(form.layout)
    return tuple(slice(0, size) for size in shape)


def gather_json(value: Any, group: Any) -> list[Any]:
    """Every process's value (of plain JSON), in their order, on all."""
    texts: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(texts, json.dumps(value), group=group)
    return [json.loads(text) for text in texts]


class _Saving(SavePlanner):
    """Every process offers its primary pieces; what two of them offer is written once."""

    def set_up_planner(
        self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False
    ) -> None:
        self.pieces: dict[str, Piece] = state_dict

    def create_local_plan(self) -> SavePlan:
        items = []
        for name, piece in self.pieces.items():
            if not piece.primary or (piece.tensor.numel() == 0 and torch.Size(piece.shape).numel()):
                continue
            chunk, shape = chunk_of(piece), torch.Size(piece.shape)
            data = TensorWriteData(chunk, TensorProperties(dtype=piece.tensor.dtype), shape)
            index = MetadataIndex(name, chunk.offsets)
            items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
        return SavePlan(items)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        seen: set[MetadataIndex] = set()
        plans = []
        for plan in all_plans:
            items = [item for item in plan.items if item.index not in seen]
            seen.update(item.index for item in items)
            plans.append(replace(plan, items=items))
        return create_default_global_save_plan(plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        return self.pieces[write_item.index.fqn].tensor


class _Loading(LoadPlanner):
    """Every process asks for its pieces."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def set_up_planner(
        self, state_dict: Any, metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        assert metadata is not None
        self.pieces: dict[str, Piece] = state_dict
        self.saved: Mapping[str, Any] = metadata.state_dict_metadata

    def create_local_plan(self) -> LoadPlan:
        items: list[ReadItem] = []
        for name, piece in self.pieces.items():
            saved = self.saved.get(name)
            if saved is None:
                raise UserError(f"the checkpoint holds no {name}", where=self.folder)
            if tuple(saved.size) != piece.shape:
                raise UserError(
                    f"the saved {name} has another shape",
                    where=self.folder,
                    found=tuple(saved.size),
                    expected=piece.shape,
                )
            if not piece.tensor.numel():
                continue
            slices = create_read_items_for_chunk_list(name, saved, [chunk_of(piece)])
            if sum(item.lengths.numel() for item in slices) != piece.tensor.numel():
                raise UserError(f"the checkpoint lacks a part of {name}", where=self.folder)
            items += slices
        return LoadPlan(items)

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        raise TypeError("a checkpoint holds tensors only")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        tensor = self.pieces[read_item.dest_index.fqn].tensor.detach()
        for dim, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths)):
            tensor = tensor.narrow(dim, start, length)
        return tensor

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """It was written in place."""


def _told(work: Any, *arguments: Any, **options: Any) -> None:
    """Call `work`; what went wrong on some process is raised as it was there."""
    try:
        work(*arguments, **options)
    except CheckpointException as error:
        cause = next(iter(error.failures.values()))[0]
        raise cause from None
