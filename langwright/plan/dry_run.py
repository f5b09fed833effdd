"""A dry run: one update of the real, distributed model, with tensors that have no memory.

The process group is pretended (only this process exists; collectives do nothing) and tensors are
fake (shapes without values), so a model for 64 GPUs runs through on a laptop. What one rank holds
and sends is then counted, not estimated. It takes about a millisecond for each operation.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from langwright.base import UserError
from langwright.dataset import Batch
from langwright.model import Transformer
from langwright.parallel import Alone, Layout, World, layout, parallelise
from langwright.plan.memory import chunk_tokens
from langwright.plan.plan import Plan, make_plan

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


MOST_BATCHES = 2  # micro-batches that are run; more only repeat the second


@dataclass(frozen=True)
class DryRun:
    """What the first rank holds and sends in the forward and backward passes of an update of one
    or two micro-batches, counted; and what the plan's arithmetic says for the same."""

    micro_batches: int
    parameters: int  # it keeps
    resting_bytes: int  # weights and gradients after the backward pass
    peak_bytes: int  # most at any moment; the optimizer's state is not there yet
    sent_bytes: float  # on rings
    planned_peak: int
    planned_sent: float
    collectives: dict[str, int]  # how many of each kind


def dry_run(plan: Plan) -> DryRun:
    """Build the first rank's part of a plan's model and run an update through it.

    It goes by the rules of a CPU, on which the tensors pretend to be: sharded weights are sent in
    fp32, where a GPU sends blocks in the compute format.

    Raises:
        UserError: a process group exists already, or ranks would have to wait for one another
            (pipelines, whole copies) or look at values (experts on other ranks).
    """
    sizes = plan.layout.sizes
    copies = sizes["dp_replicate"] if plan.layout.size("fsdp") == 1 else 1
    impossible = {"pp": sizes["pp"], "ep": plan.layout.config.ep, "dp_replicate": copies}
    for edge, degree in impossible.items():
        if degree > 1:
            raise UserError(
                "this layout cannot run with a single rank",
                where=f"parallel.{edge}",
                found=degree,
                fix="leave out --dry-run: the plan itself covers it",
            )
    batches = min(MOST_BATCHES, plan.micro_batches)
    tokens = batches * plan.micro_rows * plan.job.sequence_length * plan.layout.data_size
    job = replace(plan.job, batch_tokens=tokens, micro_rows=plan.micro_rows, checkpointing="none")
    like = make_plan(job, replace(plan.device, kind="cpu"), plan.world)
    with _pretended(plan.world), _meshes_of_numbers():
        return _count(like)


def _count(plan: Plan) -> DryRun:
    from torch._subclasses.fake_tensor import FakeTensorMode

    job = plan.job
    placed = layout(job.parallel, World(0, plan.world, 0, "cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True):
        form = _form(plan, placed)
        form.model._check = lambda *ignored: None  # it would look at values, and there are none
        own = [_local(parameter) for parameter in form.model.parameters()]
        with _Watch(own) as watch:
            _update(form, plan)
            resting = watch.present()
    return DryRun(
        plan.micro_batches,
        sum(tensor.numel() for tensor in own),
        resting,
        watch.peak,
        watch.sent,
        plan.memory.total - plan.memory.optimizer,
        sum(row.bytes for row in plan.traffic),
        dict(watch.collectives),
    )


def _form(plan: Plan, placed: Layout) -> Any:
    """The first rank's model in its parallel form, without values."""

    def prepare(model: Any) -> None:
        if placed.size("fsdp") == 1:
            model.to_empty = lambda device: _new_parameters(model, device)

    job, dtype = plan.job, DTYPES.get(plan.job.precision, torch.bfloat16)
    if plan.world > 1:
        return parallelise(
            job.model,
            0,
            placed,
            source=lambda name, shape: torch.empty(shape),
            compute_dtype=dtype,
            before_sharding=prepare,
        )
    model = Transformer(job.model)
    model.compute_dtype = dtype
    return Alone(model.train())


def _new_parameters(model: nn.Module, device: str) -> None:
    """What `Module.to_empty` does, by new parameters: it swaps the old ones' contents in place,
    which torch refuses for fake tensors that something else refers to."""
    for module in model.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            new = nn.Parameter(torch.empty_like(old, device=device), old.requires_grad)
            module.register_parameter(name, new)


def _update(form: Any, plan: Plan) -> None:
    """Forward and backward passes of all micro-batches."""
    from torch._subclasses.fake_tensor import unset_fake_temporarily

    chunk = chunk_tokens(plan.job, plan.device.kind)

    def objective(model: Any, micro: Batch) -> Any:
        more = {"positions": micro.positions, "chunk_tokens": chunk}
        return model.loss(micro.inputs, micro.targets, **more)

    with unset_fake_temporarily():  # batches count their tokens
        ids = torch.zeros(plan.micro_rows, plan.job.sequence_length, dtype=torch.int64)
        micros = [form.own_part(Batch(ids, ids)) for _ in range(plan.micro_batches)]
    form.gradients(objective, micros, 1.0, lambda index: None)


class _Watch(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and those that collectives send.

    (Not while the model is built: DTensors then make fake tensors of their own, of whole shapes.)
    """

    def __init__(self, own: list[Tensor]) -> None:
        super().__init__()
        self.alive: dict[int, weakref.ref[Any]] = {}
        self.peak, self.sent = 0, 0.0
        self.collectives: dict[str, int] = defaultdict(int)
        for tensor in own:
            self._see(tensor)

    def present(self) -> int:
        """Bytes of all storages that are alive."""
        storages = [ref() for ref in list(self.alive.values())]
        return sum(storage.nbytes() for storage in storages if storage is not None)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in _flat((result,)):
            if isinstance(value, Tensor):
                self._see(value)
        self.peak = max(self.peak, self.present())
        name = str(func)
        if "c10d" in name:
            self._send(name, args)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = weakref.ref(storage, lambda _: self.alive.pop(key, None))

    def _send(self, name: str, args: Any) -> None:
        """On a ring of n, joining and sharing out send (n - 1) / n of the whole, adding up twice
        that; exchanging sends what is not one's own."""
        sizes = [t.numel() * t.element_size() for t in _flat(args) if isinstance(t, Tensor)]
        kinds = {"allgather": 1, "reduce_scatter": 1, "alltoall": 1, "allreduce": 2}
        kind = next((kind for kind in kinds if kind in name), None)
        if kind is not None and sizes:
            n = _group_size(args)
            self.collectives[kind] += 1
            self.sent += kinds[kind] * (n - 1) / n * max(sizes)


@contextlib.contextmanager
def _pretended(size: int) -> Iterator[None]:
    """A process group of `size` processes of which only rank 0 exists."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if dist.is_initialized():
        raise UserError("a dry run needs a process of its own", fix="run it without torchrun")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _meshes_of_numbers() -> Iterator[None]:
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
                mesh = torch.tensor([[o + i - inner[0] for i in inner] for o in outer])
            return from_group(group, kind, mesh, **options)

    DeviceMesh.__init__ = real_build  # type: ignore[method-assign]
    DeviceMesh.from_group = staticmethod(real_from_group)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        DeviceMesh.__init__ = build  # type: ignore[method-assign]
        DeviceMesh.from_group = staticmethod(from_group)  # type: ignore[method-assign, assignment]


def _group_size(args: Any) -> int:
    """Members of the process group among an operation's arguments."""
    import torch.distributed as dist

    for value in _flat(args):
        if isinstance(value, torch.ScriptObject):
            with contextlib.suppress(RuntimeError, TypeError):  # another kind of object
                return dist.ProcessGroup.unbox(value).size()
    return dist.get_world_size()


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _local(parameter: Tensor) -> Tensor:
    return getattr(parameter, "_local_tensor", parameter)
