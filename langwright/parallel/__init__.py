"""One update over many devices: data, tensor, pipeline, context and expert parallel.

Read in this order: config, world, layout, cuts, init, data_parallel, tensor_parallel, context,
experts, distributed; then for pipelines schedules, stages, messages, pipeline.
Nothing of torch.distributed is used until there is more than one process.
"""

from __future__ import annotations

from typing import Any

from langwright.parallel.accumulation import choose_accumulation
from langwright.parallel.alone import Alone
from langwright.parallel.config import ParallelConfig
from langwright.parallel.layout import Layout, layout
from langwright.parallel.orders import announce, follow, leading
from langwright.parallel.world import World, process_group, world

_LAZY = {
    "Distributed": "distributed",
    "Piece": "pieces",
    "gather_json": "checkpoint",
    "read_pieces": "checkpoint",
    "read_whole": "checkpoint",
    "restore": "checkpoint",
    "write_pieces": "checkpoint",
    "from_seed": "init",
    "from_tensors": "init",
    "parallelise": "distributed",
    "duration": "schedules",
    "in_flight": "pipeline_update",
    "schedule": "schedules",
    "stage_layers": "stages",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)


__all__ = [
    "Alone",
    "Distributed",
    "Layout",
    "ParallelConfig",
    "Piece",
    "World",
    "announce",
    "choose_accumulation",
    "duration",
    "follow",
    "from_seed",
    "from_tensors",
    "gather_json",
    "in_flight",
    "layout",
    "leading",
    "parallelise",
    "process_group",
    "read_pieces",
    "read_whole",
    "restore",
    "schedule",
    "stage_layers",
    "world",
    "write_pieces",
]
