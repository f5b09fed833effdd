"""Expert parallel: the processes of a group share out the experts of every layer.

Each process routes its own tokens, sends every token to the processes that hold its experts, and
gets the results back (GShard, Lepikhin et al. 2020, arXiv:2006.16668, section 3.2). No token is
dropped and none is padded: the processes first tell one another how many are coming.

The group is taken from the processes that also share out the data ("fsdp"). An expert's weights are
sharded only over those that hold the same experts ("expert_shard"), and its gradient already has
the tokens of the whole group in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from langwright.base import UserError
from langwright.model import ExpertFeedForward, Transformer
from langwright.parallel.cuts import Part
from langwright.parallel.layout import Layout

EXPERTS = ("gate", "up", "down")  # (E, F, D), (E, F, D), (E, D, F)


def apply_expert_parallel(model: Transformer, layout: Layout, parts: dict[str, Part]) -> None:
    """Cut every layer's experts, still on the meta device, over the span "ep".

    Args:
        parts: what is cut is noted here.

    Raises:
        UserError: the model has no experts, or their number does not divide.
    """
    experts, ep = model.config.experts, layout.config.ep
    if experts is None or experts.count % ep:
        raise UserError(
            "expert parallel shares out the model's experts",
            where="parallel.ep",
            found=f"{0 if experts is None else experts.count} experts over {ep} processes",
            fix="ep = 1" if experts is None else f"a divisor of {experts.count}",
        )
    group = layout.group("ep")
    for index, block in enumerate(model.blocks):
        layer = block.feedforward
        if not isinstance(layer, ExpertFeedForward):
            continue
        for leaf in EXPERTS:
            name = f"blocks.{index}.feedforward.{leaf}"
            parts[name] = parts[name].cut("ep", 0)
            old = getattr(layer, leaf)
            new = torch.empty((old.shape[0] // ep, *old.shape[1:]), device=old.device)
            setattr(layer, leaf, nn.Parameter(new, requires_grad=old.requires_grad))
        layer.each = _elsewhere(layer.each, group)  # type: ignore[method-assign]


def held_apart(part: Part) -> bool:
    """Whether this is the weight of experts, each process holding others."""
    return any(cut.span == "ep" for cut in part.cuts)


def shard_experts(blocks: Iterable[nn.Module], layout: Layout, options: dict[str, Any]) -> None:
    """Shard (FSDP2) the experts of each block over the processes that hold the same ones, and the
    router and shared expert beside them, as everything else, over all.

    Args:
        blocks: whose own weights are sharded afterwards.
        options: of `fully_shard` for everything else.
    """
    from torch.distributed.fsdp import fully_shard

    mesh = expert_mesh(layout)
    for block in blocks:
        layer = getattr(block, "feedforward", None)
        if not isinstance(layer, ExpertFeedForward):
            continue
        for inner in (layer.router, layer.shared, layer.shared_gate):
            if inner is not None:
                fully_shard(inner, **options)
        fully_shard(layer, **{**options, "mesh": mesh})


def expert_mesh(layout: Layout) -> Any:
    """The processes that hold the same experts as this one; with replicas in two dimensions."""
    from torch.distributed.device_mesh import DeviceMesh

    kind = layout.world.device.partition(":")[0]
    same = layout.group("expert_shard")
    if layout.size("dp_replicate") == 1:
        return DeviceMesh.from_group(same, kind, mesh_dim_names=("expert_shard",))
    replicas = layout.group("dp_replicate")
    own = layout.peers("expert_shard")
    rows = [ranks for ranks in layout.groups_of("dp_replicate") if set(ranks) & set(own)]
    table = torch.tensor(sorted(rows, key=lambda ranks: own.index((set(ranks) & set(own)).pop()))).T
    return DeviceMesh.from_group(
        [replicas, same], kind, mesh=table, mesh_dim_names=("dp_replicate", "expert_shard")
    )


def _elsewhere(usual: Any, group: Any) -> Any:
    """`ExpertFeedForward.each` with the rows sent to where their experts are; `usual` works there
    on the experts that are here."""
    count = dist.get_world_size(group)

    def each(x: Tensor, counts: Tensor) -> Tensor:
        """x (M, D) sorted by expert, counts (E,) -> (M, D)."""
        going = counts.view(count, -1).contiguous()  # (processes, own experts of each)
        coming = torch.empty_like(going)  # of each process for each of our experts
        dist.all_to_all_single(coming, going, group=group)
        out, here = going.sum(dim=1).tolist(), coming.sum(dim=1).tolist()
        rows = _Send.apply(x, out, here, group)  # by sender, then by expert
        numbers = torch.arange(coming.shape[1], device=x.device).repeat(count)
        order = numbers.repeat_interleave(coming.flatten()).argsort(stable=True)  # by expert
        y = usual(rows.index_select(0, order), coming.sum(dim=0))
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0], device=order.device)
        return _Send.apply(y.index_select(0, back), here, out, group)

    return each


class _Send(torch.autograd.Function):
    """Rows to their processes: x (M, D), `out[p]` rows for process p, `here[p]` come from it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: list[int], here: list[int], group: Any) -> Tensor:
        ctx.out, ctx.here, ctx.group = out, here, group
        got = x.new_empty(sum(here), *x.shape[1:])
        dist.all_to_all_single(got, x.contiguous(), here, out, group=group)
        return got

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _Send.apply(grads[0], ctx.here, ctx.out, ctx.group), None, None, None
