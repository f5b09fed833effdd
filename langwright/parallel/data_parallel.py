"""Data parallel: each process works on its own rows, gradients are added up.

`replicate` (DDP): every process holds all weights. `shard` (FSDP2, and HSDP with replicas on top):
each holds a piece of every matrix; a block's weights are gathered when it runs and dropped after.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from langwright.parallel.layout import Layout


class Root(nn.Module):
    """What DDP and FSDP wrap: a forward pass is any work done with the model inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """``work(model, *arguments)``; tensors that need a gradient stand in its tuple."""
        return work(self.model, *arguments)


def replicate(root: Root, layout: Layout) -> nn.Module:
    """Gradients are averaged over the replicas while the backward pass still runs."""
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(
        root,
        process_group=layout.group("dp_replicate"),
        gradient_as_bucket_view=True,
        init_sync=False,  # all have been filled from (seed, name)
    )


def shard(
    root: Root,
    blocks: Iterable[nn.Module],
    layout: Layout,
    gather_dtype: torch.dtype | None = None,
) -> nn.Module:
    """Share out the weights of each block, then those of the rest, over the span "fsdp".

    Args:
        root: the model, on the meta device or filled.
        blocks: modules whose weights are gathered together.
        gather_dtype: number format in which a block's weights are gathered; None: as they are.
    """
    from torch.distributed.fsdp import (
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
    )

    config = layout.config
    cuda = layout.world.device.startswith("cuda")
    reduce = torch.bfloat16 if config.reduce == "bf16" else torch.float32
    options: dict[str, Any] = {
        "mesh": _mesh(layout),
        "offload_policy": CPUOffloadPolicy(pin_memory=cuda) if config.offload else OffloadPolicy(),
    }
    reshard = config.reshard == "always" or (config.reshard == "auto" and layout.pp == 1)
    blocks = list(blocks)
    if config.ep > 1:
        from langwright.parallel.experts import shard_experts

        shard_experts(blocks, layout, {**options, "reshard_after_forward": reshard})
    policy: dict[str, Any] = {"reduce_dtype": reduce, "cast_forward_inputs": False}
    narrow = MixedPrecisionPolicy(param_dtype=gather_dtype, **policy)
    for block in blocks:
        fully_shard(block, reshard_after_forward=reshard, mp_policy=narrow, **options)
    fully_shard(
        root, reshard_after_forward=False, mp_policy=MixedPrecisionPolicy(**policy), **options
    )
    return root


def _mesh(layout: Layout) -> Any:
    """The mesh that FSDP shards over; with replicas one of two dimensions."""
    from torch.distributed.device_mesh import DeviceMesh

    kind = layout.world.device.partition(":")[0]
    fsdp = layout.group("fsdp")
    if layout.size("dp_replicate") == 1:
        return DeviceMesh.from_group(fsdp, kind, mesh_dim_names=("fsdp",))
    replicas = layout.group("dp_replicate")
    table = [[0] * layout.size("fsdp") for _ in range(layout.size("dp_replicate"))]
    own = layout.place(layout.world.rank)
    for rank in range(layout.world.size):
        place = layout.place(rank)
        if all(place[edge] == own[edge] for edge in ("pp", "tp")):
            column = place["dp_shard"] * layout.cp + place["cp"]
            table[place["dp_replicate"]][column] = rank
    return DeviceMesh.from_group(
        [replicas, fsdp], kind, mesh=torch.tensor(table), mesh_dim_names=("dp_replicate", "fsdp")
    )


def syncing(root: Any, last: bool, sharded: bool) -> contextlib.AbstractContextManager[Any]:
    """Of an update's micro-batches only the last one's backward pass adds up over processes.

    sharded: with FSDP each one's does over the shards (see `Accumulation`), and replicas at last.
    """
    if hasattr(root, "set_requires_gradient_sync"):  # FSDP
        root.set_requires_gradient_sync(last or sharded)
        root.set_requires_all_reduce(last)
        return contextlib.nullcontext()
    if not last and hasattr(root, "no_sync"):  # DDP
        return root.no_sync()
    return contextlib.nullcontext()


@torch.no_grad()
def sum_gradients(gradients: list[Tensor], group: Any) -> None:
    """Add up gradients over a group, in place, by one collective for each dtype."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for gradient in gradients:
        by_dtype.setdefault(gradient.dtype, []).append(gradient)
    for members in by_dtype.values():
        flat = torch.cat([member.flatten() for member in members])
        dist.all_reduce(flat, group=group)
        parts = flat.split([member.numel() for member in members])
        for member, part in zip(members, parts, strict=True):
            member.copy_(part.view_as(member))
