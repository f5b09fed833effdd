"""From degrees to places: which part of the work each process has.

Ranks are laid out as a box with these edges, the last one running fastest, so that the processes
that talk most are neighbours (on one machine):

    pp, dp_replicate, dp_shard, cp, tp

Some groups span several edges; they have names of their own (`SPANS`). Expert parallelism has no
edge: it takes neighbours of the span "fsdp" ("ep"); those that hold equal experts are a group too
("expert_shard").
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from langwright.base import UserError
from langwright.parallel.config import ParallelConfig
from langwright.parallel.world import World

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

EDGES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
SPANS: dict[str, tuple[str, ...]] = {
    **{edge: (edge,) for edge in EDGES},
    "data": ("dp_replicate", "dp_shard"),  # each reads rows of its own
    "fsdp": ("dp_shard", "cp"),  # share out one copy's weights
    "loss": ("dp_replicate", "dp_shard", "cp"),  # each adds tokens of its own to the loss
    "copy": ("dp_shard", "cp", "tp"),  # hold the pieces of one stage's matrices
    "world": EDGES,
}


@dataclass(frozen=True, eq=False)
class Layout:
    """A `ParallelConfig` on a world of a certain size, seen from one process."""

    config: ParallelConfig
    world: World
    sizes: dict[str, int]  # of each edge

    def size(self, span: str) -> int:
        """Number of processes along an edge or a span of edges."""
        if span == "ep":
            return self.config.ep
        if span == "expert_shard":
            return self.size("fsdp") // self.config.ep
        return math.prod(self.sizes[edge] for edge in SPANS[span])

    def rank(self, span: str) -> int:
        """This process's number along an edge or a span."""
        if span == "ep":
            return self.rank("fsdp") % self.config.ep
        if span == "expert_shard":
            return self.rank("fsdp") // self.config.ep
        place = self.place(self.world.rank)
        number = 0
        for edge in SPANS[span]:
            number = number * self.sizes[edge] + place[edge]
        return number

    def place(self, rank: int) -> dict[str, int]:
        """Coordinates of a process."""
        shape = [self.sizes[edge] for edge in EDGES]
        return dict(zip(EDGES, (int(i) for i in np.unravel_index(rank, shape)), strict=True))

    def peers(self, span: str) -> list[int]:
        """Ranks of the group along a span that this process belongs to, in their order."""
        return next(ranks for ranks in self.groups_of(span) if self.world.rank in ranks)

    def groups_of(self, span: str) -> list[list[int]]:
        """All groups along a span: lists of ranks."""
        if span == "ep":
            ep = self.config.ep
            groups = self.groups_of("fsdp")
            return [ranks[i : i + ep] for ranks in groups for i in range(0, len(ranks), ep)]
        if span == "expert_shard":
            ep = self.config.ep
            return [ranks[i::ep] for ranks in self.groups_of("fsdp") for i in range(ep)]
        box = np.arange(self.world.size).reshape([self.sizes[edge] for edge in EDGES])
        own = [EDGES.index(edge) for edge in SPANS[span]]
        others = [i for i in range(len(EDGES)) if i not in own]
        return box.transpose(others + own).reshape(-1, self.size(span)).tolist()

    def group(self, span: str) -> Any:
        """The process group along a span, for collectives. All processes must ask for the same
        spans in the same order."""
        if span not in self._groups:
            import torch.distributed as dist

            if span == "world":
                self._groups[span] = dist.group.WORLD
            else:
                self._groups[span], _ = dist.new_subgroups_by_enumeration(self.groups_of(span))
        return self._groups[span]

    @functools.cached_property
    def _groups(self) -> dict[str, Any]:
        return {}

    @functools.cached_property
    def mesh(self) -> DeviceMesh:
        """All processes as a torch mesh, with the edges longer than 1 as named dimensions."""
        from torch.distributed.device_mesh import init_device_mesh

        edges = [edge for edge in EDGES if self.sizes[edge] > 1] or ["dp_shard"]
        kind = self.world.device.partition(":")[0]
        shape = tuple(self.sizes[edge] for edge in edges)
        return init_device_mesh(kind, shape, mesh_dim_names=tuple(edges))

    @property
    def data_rank(self) -> int:
        """Which of the `data_size` parts of a batch's rows this process works on."""
        return self.rank("data")

    @property
    def data_size(self) -> int:
        """Into how many parts a batch's rows are shared out."""
        return self.size("data")

    @property
    def tp(self) -> int:
        """Size of the tensor-parallel group."""
        return self.sizes["tp"]

    @property
    def pp(self) -> int:
        """Number of pipeline ranks."""
        return self.sizes["pp"]

    @property
    def cp(self) -> int:
        """Size of the context-parallel group."""
        return self.sizes["cp"]

    @property
    def alone(self) -> bool:
        """Whether there is nothing to share out."""
        return self.world.size == 1

    def describe(self) -> str:
        """Such as ``dp_shard 2 x tp 4``."""
        parts = [f"{edge} {self.sizes[edge]}" for edge in EDGES if self.sizes[edge] > 1]
        if self.config.ep > 1:
            parts.append(f"ep {self.config.ep}")
        return " x ".join(parts) or "one process"


def layout(config: ParallelConfig, world: World) -> Layout:
    """Resolve the degrees on a world.

    Raises:
        UserError: they do not divide or multiply to the number of processes, or a combination
            is known to give wrong results.
    """
    sizes = {"pp": config.pp, "cp": config.cp, "tp": config.tp}
    sizes |= {"dp_replicate": config.dp_replicate, "dp_shard": config.dp_shard}
    for name in ("dp_replicate", "dp_shard"):
        if sizes[name] == 0:
            raise UserError("a degree must be at least 1, or -1", where=f"parallel.{name}", found=0)
    open_ = [name for name, size in sizes.items() if size == -1]
    if len(open_) > 1:
        raise UserError(
            "only one degree can be -1 (the rest)",
            where="parallel",
            found=" and ".join(open_),
            fix="give one of them as a number",
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    shown = " x ".join(f"{name} {sizes[name]}" for name in EDGES if sizes[name] not in (1, -1))
    if open_ and world.size % fixed == 0:
        sizes[open_[0]] = world.size // fixed
    elif fixed != world.size or open_:
        raise UserError(
            f"{world.size} processes cannot be shared out so",
            where="parallel",
            found=f"{shown or 'all degrees 1'} = {fixed}",
            expected=f"a divisor of {world.size}" if open_ else f"a product of {world.size}",
            fix="change the degrees, or torchrun --nproc-per-node / --nnodes",
        )
    _refuse_traps(config, sizes)
    return Layout(config, world, {edge: sizes[edge] for edge in EDGES})


def _refuse_traps(config: ParallelConfig, sizes: dict[str, int]) -> None:
    """Combinations that would run, and compute something else."""
    if config.schedule == "zero-bubble" and config.pp > 1 and config.reshard == "always":
        raise UserError(
            "a zero-bubble pipeline computes wrong gradients when weights are resharded after the "
            "forward pass",
            where="parallel.reshard",
            found="always",
            expected="auto or never",
        )
    if config.schedule == "zero-bubble" and config.pp > 1 and config.accumulate == "sharded":
        raise UserError(
            "a zero-bubble pipeline has the gradients of its weights at the end only",
            where="parallel.accumulate",
            found="sharded",
            expected="auto or whole",
        )
    fsdp = sizes["dp_shard"] * sizes["cp"]
    if fsdp % config.ep:
        raise UserError(
            "the experts' processes are taken from those of dp_shard x cp",
            where="parallel.ep",
            found=f"{config.ep} of {fsdp}",
            expected=f"a divisor of {fsdp}",
        )
