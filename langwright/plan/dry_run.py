"""A dry run: one update of the real, distributed model, with tensors that have no memory.

The process group is pretended (only this process exists; collectives do nothing) and tensors are
fake (shapes without values), so a model for 64 GPUs runs through on a laptop. What one rank holds
and sends is then counted, not estimated; of a pipeline one rank of each stage, which gets nothing
but empty activations from the others. It takes about a millisecond for each operation.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from langwright.dataset import Batch
from langwright.model import Transformer
from langwright.parallel import Alone, Layout, World, layout, parallelise
from langwright.plan.memory import chunk_tokens, stage_memory
from langwright.plan.plan import Plan, make_plan
from langwright.plan.pretend import (
    copies_without_memory,
    every_target_counts,
    memory_by_new_parameters,
    meshes_of_numbers,
    pretended_group,
    share_tokens_evenly,
)
from langwright.plan.traffic import all_traffic

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


MOST_CHUNKS = 8  # of the loss, in each micro-batch
MOST_BATCHES = 2  # micro-batches that are run; more only repeat the second


@dataclass(frozen=True)
class DryRun:
    """What one rank holds and sends in the forward and backward passes of an update of a few
    micro-batches, counted; and what the plan's arithmetic says for the same."""

    stage: int  # of the pipeline; 0 without one
    micro_batches: int
    parameters: int  # it keeps
    resting_bytes: int  # weights and gradients after the backward pass
    peak_bytes: int  # most at any moment; the optimizer's state is not there yet
    sent_bytes: float  # on rings, and to the neighbours in a pipeline
    planned_parameters: int
    planned_peak: int
    planned_sent: float
    collectives: dict[str, int]  # how many of each kind


def dry_runs(plan: Plan) -> list[DryRun]:
    """A dry run of each stage of the pipeline; of one rank if there is none."""
    return [dry_run(plan, stage.number) for stage in plan.stages]


def dry_run(plan: Plan, stage: int = 0) -> DryRun:
    """Build a rank's part of a plan's model and run an update through it.

    It goes by the rules of a CPU, on which the tensors pretend to be: sharded weights are sent in
    fp32, where a GPU sends blocks in the compute format. What needs values or other processes has
    stand-ins: see `pretend`.

    Args:
        stage: of the pipeline; the first of its ranks is run.

    Raises:
        UserError: a process group exists already.
    """
    batches = min(_fewest(plan), plan.micro_batches)
    tokens = batches * plan.micro_rows * plan.job.sequence_length * plan.layout.data_size
    job = replace(
        plan.job,
        batch_tokens=tokens,
        micro_rows=plan.micro_rows,
        checkpointing="none",
        chunk_tokens=plan.job.chunk_tokens or _chunk(plan),
    )
    like = make_plan(job, replace(plan.device, kind="cpu"), plan.world)
    rank = plan.layout.groups_of("pp")[0][stage]
    with pretended_group(rank, plan.world), meshes_of_numbers(), copies_without_memory():
        return _count(like, stage, rank)


def _fewest(plan: Plan) -> int:
    """Micro-batches that show everything: enough to fill a pipeline."""
    pp = plan.layout.pp
    if pp == 1:
        return MOST_BATCHES
    return plan.layout.config.pipeline_microbatches or 2 * pp


def _chunk(plan: Plan) -> int:
    """As on a CPU, but at most so many chunks that they do not take all the time."""
    tokens = plan.micro_rows * plan.job.sequence_length
    return max(chunk_tokens(plan.job, "cpu"), tokens // MOST_CHUNKS)


def _count(plan: Plan, number: int, rank: int) -> DryRun:
    from torch._subclasses.fake_tensor import FakeTensorMode

    job = plan.job
    placed = layout(job.parallel, World(rank, plan.world, 0, "cpu"))
    with FakeTensorMode(allow_non_fake_inputs=True), every_target_counts():
        form = _form(plan, placed)
        own = [_local(parameter) for parameter in form.model.parameters()]
        with _Watch(own) as watch:
            _update(form, plan)
            resting = watch.present()
    stage, device = plan.stages[number], plan.device
    batches = plan.micro_rows, plan.micro_batches
    memory = stage_memory(job, plan.layout, stage, *batches, device.kind)
    traffic = all_traffic(job, plan.layout, device, stage, *batches)
    return DryRun(
        number,
        plan.micro_batches,
        sum(tensor.numel() for tensor in own),
        resting,
        watch.peak,
        watch.sent,
        stage.parameters,
        memory.total - memory.optimizer,
        sum(row.bytes for row in traffic),
        dict(watch.collectives),
    )


def _form(plan: Plan, placed: Layout) -> Any:
    """A rank's model in its parallel form, without values."""

    def prepare(model: Any) -> None:
        model._check = lambda *ignored: None  # it would look at values, and there are none
        if plan.job.parallel.ep > 1:
            share_tokens_evenly(model, placed.group("ep"))

    job, dtype = plan.job, DTYPES.get(plan.job.precision, torch.bfloat16)
    if plan.world > 1:
        whole = placed.size("fsdp") == 1
        with memory_by_new_parameters() if whole else contextlib.nullcontext():
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
    prepare(model)
    return Alone(model.train())


def _update(form: Any, plan: Plan) -> None:
    """Forward and backward passes of all micro-batches."""
    chunk = chunk_tokens(plan.job, plan.device.kind)

    def objective(model: Any, micro: Batch) -> Any:
        more = {"positions": micro.positions, "chunk_tokens": chunk}
        return model.loss(micro.inputs, micro.targets, **more)

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
        self.sizes: dict[int, int] = {}  # as they were when last seen
        self.bound = 0  # their sum: FSDP frees storages unseen, but none grows so
        self.peak, self.sent = 0, 0.0
        self.collectives: dict[str, int] = defaultdict(int)
        for tensor in own:
            self._see(tensor)

    def present(self) -> int:
        """Bytes of all storages that are alive."""
        storages = [(key, ref()) for key, ref in list(self.alive.items())]
        self.sizes = {key: storage.nbytes() for key, storage in storages if storage is not None}
        self.bound = sum(self.sizes.values())
        return self.bound

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in _flat((result, args, *(kwargs or {}).values())):
            if isinstance(value, Tensor):
                self._see(value)
        if self.bound > self.peak:  # to look at all of them takes long
            self.peak = max(self.peak, self.present())
        name = str(func)
        if "c10d" in name:
            self._send(name, args)
        return result

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self.alive:
            self.alive[key] = weakref.ref(storage, lambda _: self._forget(key))
        self.bound += size - self.sizes.get(key, 0)
        self.sizes[key] = size

    def _forget(self, key: int) -> None:
        self.alive.pop(key, None)
        self.bound -= self.sizes.pop(key, 0)

    def _send(self, name: str, args: Any) -> None:
        """On a ring of n, joining and sharing out send (n - 1) / n of the whole, adding up twice
        that; exchanging sends what is not one's own, and a message all of itself."""
        sizes = [t.numel() * t.element_size() for t in _flat(args) if isinstance(t, Tensor)]
        kinds = {"allgather": 1, "reduce_scatter": 1, "alltoall": 1, "allreduce": 2}
        kind = next((kind for kind in kinds if kind in name), None)
        if name.startswith("c10d.send") and sizes:
            self.collectives["send"] += 1
            self.sent += sizes[0]
        elif kind is not None and sizes:
            n = _group_size(args)
            self.collectives[kind] += 1
            self.sent += kinds[kind] * (n - 1) / n * max(sizes)


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
