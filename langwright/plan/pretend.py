"""What a dry run puts in the place of other processes, and of what needs values.

One process plays one of many: its collectives and messages return at once, with nothing in what
they give. What does not go with tensors without values has stand-ins here that hold and send as
much: device meshes (they look ranks up in tensors), taking memory for a model, DDP (its reducer
works on memory), counting a batch's targets, and the exchange of tokens between experts (how many
go where, the values decide).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from langwright.base import UserError
from langwright.dataset import Batch
from langwright.model import ExpertFeedForward


@contextlib.contextmanager
def pretended_group(rank: int, size: int) -> Iterator[None]:
    """A process group of `size` processes of which only `rank` exists.

    Raises:
        UserError: this process is one of a real group.
    """
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise UserError("a dry run needs a process of its own", fix="run it without torchrun")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def meshes_of_numbers() -> Iterator[None]:
    """Device meshes hold ranks in tensors and read them: those must be real."""
    import torch.distributed as dist
    from torch._subclasses.fake_tensor import unset_fake_temporarily
    from torch.distributed.device_mesh import DeviceMesh

    build, from_group = DeviceMesh.__init__, DeviceMesh.from_group

    def real_build(self: DeviceMesh, *args: Any, **options: Any) -> None:
        with unset_fake_temporarily():
            build(self, *args, **options)

    def real_from_group(group: Any, kind: str, mesh: Any = None, **options: Any) -> DeviceMesh:
        with unset_fake_temporarily():
            if isinstance(group, list):  # the layout is a box: rows are shifted copies of one
                outer, inner = (dist.get_process_group_ranks(g) for g in group)
                own = dist.get_rank()
                mesh = torch.tensor([[o + i - own for i in inner] for o in outer])
            return from_group(group, kind, mesh, **options)

    DeviceMesh.__init__ = real_build  # type: ignore[method-assign]
    DeviceMesh.from_group = staticmethod(real_from_group)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        DeviceMesh.__init__ = build  # type: ignore[method-assign]
        DeviceMesh.from_group = staticmethod(from_group)  # type: ignore[method-assign, assignment]


@contextlib.contextmanager
def copies_without_memory() -> Iterator[None]:
    """DDP's stand-in for models that are built inside."""
    import torch.nn.parallel as parallel

    real = parallel.DistributedDataParallel
    parallel.DistributedDataParallel = _Copies  # type: ignore[assignment, misc]
    try:
        yield
    finally:
        parallel.DistributedDataParallel = real  # type: ignore[misc]


class _Copies(nn.Module):
    """As DDP: each gradient is added up over the copies while the backward pass runs, in place
    (DDP's gradients are views of what it sends), but one by one instead of some 25 MB at a time."""

    def __init__(self, module: nn.Module, process_group: Any, **options: Any) -> None:
        super().__init__()
        self.module, self.together = module, True

        def add_up(parameter: Tensor) -> None:
            import torch.distributed as dist

            if self.together:
                dist.all_reduce(parameter.grad, group=process_group)

        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(add_up)

    def forward(self, *arguments: Any) -> Any:
        """Of the model inside."""
        return self.module(*arguments)

    @contextlib.contextmanager
    def no_sync(self) -> Iterator[None]:
        """Inside, gradients stay here."""
        self.together = False
        try:
            yield
        finally:
            self.together = True


@contextlib.contextmanager
def memory_by_new_parameters() -> Iterator[None]:
    """`Module.to_empty` swaps the old parameters' contents in place, which torch refuses for fake
    tensors that something else refers to: here new ones take their place."""
    real = nn.Module.to_empty

    def to_empty(self: nn.Module, *, device: Any, recurse: bool = True) -> nn.Module:
        for module in self.modules():
            for name, old in list(module._parameters.items()):
                if old is not None:
                    new = nn.Parameter(torch.empty_like(old, device=device), old.requires_grad)
                    module.register_parameter(name, new)
        return self

    nn.Module.to_empty = to_empty  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.to_empty = real  # type: ignore[method-assign]


@contextlib.contextmanager
def every_target_counts() -> Iterator[None]:
    """A batch counts its targets by their values; here all of them."""
    real = Batch.__post_init__

    def count(self: Batch) -> None:
        if self.tokens < 0:
            self.tokens = self.targets.numel()

    Batch.__post_init__ = count  # type: ignore[method-assign]
    try:
        yield
    finally:
        Batch.__post_init__ = real  # type: ignore[method-assign]


def share_tokens_evenly(model: nn.Module, group: Any) -> None:
    """Every process of an expert group gets as many tokens of each other one, whatever the router
    says of them; with as many products, values and messages as really."""
    for module in model.modules():
        if isinstance(module, ExpertFeedForward):
            module.each = _evenly(module, group)  # type: ignore[method-assign, assignment]


def _evenly(layer: ExpertFeedForward, group: Any) -> Callable[[Tensor, Tensor], Tensor]:
    import torch.distributed as dist

    count = dist.get_world_size(group)

    def each(x: Tensor, counts: Tensor) -> Tensor:
        """As `ExpertFeedForward.each` where experts are on `count` processes: x (M, D)."""
        going = counts.view(count, -1)
        coming = torch.empty_like(going)
        dist.all_to_all_single(coming, going, group=group)
        rows = _Exchange.apply(x, count, group)
        order = torch.arange(rows.shape[0], device=x.device)
        y = ExpertFeedForward.each(layer, rows.index_select(0, order), coming.sum(dim=0))
        return _Exchange.apply(y.index_select(0, order), count, group)

    return each


class _Exchange(torch.autograd.Function):
    """Rows (M, D) to all processes of a group, about M / count to each, and as many back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, count: int, group: Any) -> Tensor:
        import torch.distributed as dist

        ctx.count, ctx.group = count, group
        sizes = [len(part) for part in torch.arange(x.shape[0], device="meta").tensor_split(count)]
        got = torch.empty_like(x)
        dist.all_to_all_single(got, x.contiguous(), sizes, sizes, group=group)
        return got

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return _Exchange.apply(grads[0], ctx.count, ctx.group), None, None
