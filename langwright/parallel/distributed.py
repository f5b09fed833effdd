"""A model over many processes, and what one update asks of it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from langwright.dataset import Batch
from langwright.model import ModelConfig, Transformer
from langwright.optim import OptimConfig, OptimizerSet, build_optimizer
from langwright.parallel.accumulation import Accumulation, choose_accumulation
from langwright.parallel.alone import Alone, Objective, Result, Sums
from langwright.parallel.clip import global_norm, shorten
from langwright.parallel.context import Context, apply_context_parallel
from langwright.parallel.cuts import Part
from langwright.parallel.data_parallel import Root, replicate, shard, sum_gradients, syncing
from langwright.parallel.experts import apply_expert_parallel, held_apart
from langwright.parallel.init import Source, fill, from_seed, local_tensor
from langwright.parallel.layout import EDGES, SPANS, Layout
from langwright.parallel.optimizer import ShardedOptimizer
from langwright.parallel.pieces import Piece


class Distributed(Alone):
    """This process's part of the model.

    Args:
        model: the module that runs here; parameter names are those of the whole model.
        layout: of the processes.
        parts: which part of every parameter is here, by name.
        root: what is called to run the model: DDP, FSDP's root, or a plain `Root`.
        shared: names of parameters whose gradients are partial sums over the span "tp".
        factor: the root averages gradients over so many processes.
        context: who has which tokens, with context parallel.
        accumulation: how gradients of sharded weights stand between micro-batches; None: they
            are not sharded.
    """

    def __init__(
        self,
        model: nn.Module,
        layout: Layout,
        parts: dict[str, Part],
        root: Any,
        shared: Iterable[str] = (),
        factor: int = 1,
        context: Context | None = None,
        accumulation: Accumulation | None = None,
    ) -> None:
        super().__init__(model)
        self.layout: Layout = layout
        self.parts, self.root = parts, root
        self.shared, self.factor, self.context = tuple(shared), factor, context
        self.accumulation = accumulation
        self.rank, self.size = layout.world.rank, layout.world.size
        self.data_rank, self.data_size = layout.data_rank, layout.data_size
        self.device = torch.device(layout.world.device)
        self.parameters = dict(model.named_parameters())
        self._control: Any = None

    # -- an update --------------------------------------------------------------------------------

    def gradients(
        self,
        objective: Objective,
        micros: Sequence[Batch],
        scale: float | Tensor,
        begin: Callable[[int], None],
    ) -> list[Sums]:
        """See `Alone.gradients`."""
        sums = []
        for index, micro in enumerate(micros):
            begin(index)
            last = index == len(micros) - 1
            with self.own_tokens(), syncing(self.root, last, self.accumulates_sharded):
                loss_sum, weight = self.root(objective, micro)
                (loss_sum * (scale * self.factor)).backward()
            sums.append((loss_sum.detach().float(), weight))
        self.finish_gradients()
        return sums

    @property
    def accumulates_sharded(self) -> bool:
        """Whether each micro-batch's gradients are added up over the shards (FSDP)."""
        return self.accumulation is not None and self.accumulation.sharded

    def own_part(self, batch: Batch) -> Batch:
        """See `Alone.own_part`."""
        return batch if self.context is None else self.context.take(batch)

    @contextlib.contextmanager
    def own_tokens(self) -> Iterator[None]:
        """Inside, the model works on this process's tokens of each row (context parallel)."""
        if self.context is not None:
            self.context.active = True
        try:
            yield
        finally:
            if self.context is not None:
                self.context.active = False

    def finish_gradients(self) -> None:
        """Add up what the backward pass left as partial sums over the tensor-parallel group; an
        expert's gradient has the whole expert group's tokens in it, but was averaged over fewer
        processes than `factor` says."""
        for name, part in self.parts.items():
            gradient = self.parameters[name].grad
            if gradient is not None and held_apart(part):
                local_tensor(gradient).div_(self.layout.config.ep)
        gradients = [self.parameters[name].grad for name in self.shared]
        local = [local_tensor(gradient) for gradient in gradients if gradient is not None]
        if local:
            sum_gradients(local, self.layout.group("tp"))

    def optimizer(self, config: OptimConfig) -> OptimizerSet:
        """The optimizer of this process's pieces."""
        base = build_optimizer(self.model, config)
        return ShardedOptimizer(base, self.parameters, self.parts, self.layout)

    def clip(
        self, optimizer: OptimizerSet, max_norm: float | None, factor: float | Tensor = 1.0
    ) -> Tensor:
        """See `Alone.clip`; the norm is that of the whole model's gradient, alike on all."""
        found = {n: p.grad for n, p in self.parameters.items() if p.grad is not None}
        local = {name: local_tensor(gradient) for name, gradient in found.items()}
        pieces = ((piece, self.parts[name].copies(self.layout)) for name, piece in local.items())
        norm = global_norm(pieces, self.device)
        return shorten(list(local.values()), norm, max_norm, factor)

    def all_sum(self, tensor: Tensor) -> Tensor:
        """Sum over the span "loss", a new tensor."""
        total = tensor.to(self.device, copy=True)
        dist.all_reduce(total, group=self.layout.group("loss"))
        return total

    # -- agreement --------------------------------------------------------------------------------

    @property
    def control(self) -> Any:
        """A group over CPUs for small messages between hosts; nobody waits for a device."""
        if self._control is None:
            self._control = dist.new_group(backend="gloo")
        return self._control

    def agree(self, value: Any) -> Any:
        """The first process's value (of plain JSON), on all."""
        text = json.dumps(value).encode() if self.first else b""
        size = torch.tensor(len(text))
        dist.broadcast(size, 0, group=self.control)
        data = torch.zeros(int(size), dtype=torch.uint8)
        if self.first:
            data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        dist.broadcast(data, 0, group=self.control)
        return json.loads(bytes(data.tolist()))

    def gather(self, value: Any) -> list[Any]:
        """Every process's value (of plain JSON), on all."""
        texts: list[Any] = [None] * self.size
        dist.all_gather_object(texts, json.dumps(value), group=self.control)
        return [json.loads(text) for text in texts]

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag whether it is up on some process."""
        up = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(up, dist.ReduceOp.MAX, group=self.control)
        return tuple(bool(value) for value in up)

    def wait(self) -> None:
        """Until every process has come here."""
        dist.barrier(group=self.control)

    # -- weights ----------------------------------------------------------------------------------

    def inside(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """``work(model, *arguments)``; every process must do the same forward passes in it."""
        if self.whole:
            return work(self.model, *arguments)
        with torch.no_grad():
            result = self.root(work, *arguments)
        self.forget_weights()
        return result

    @property
    def whole(self) -> bool:
        """Whether every process holds all weights and can use them by itself."""
        return self.layout.pp == 1 and not any(part.cuts for part in self.parts.values())

    def forget_weights(self) -> None:
        """Drop gathered weights: they are gathered again when they are needed."""
        if hasattr(self.root, "reshard"):
            self.root.reshard()

    def state(self, optimizer: OptimizerSet | None = None) -> dict[str, Piece]:
        """Live tensors to save: "model/<parameter>", "optimizer/<parameter>/<entry>"."""
        pieces = {
            f"model/{name}": self._piece(local_tensor(parameter), self.parts[name])
            for name, parameter in self.parameters.items()
        }
        if optimizer is None:
            return pieces
        for key, tensor in optimizer.state_dict()["tensors"].items():
            name = key.rpartition("/")[0]
            owned = isinstance(optimizer, ShardedOptimizer) and name in optimizer.owned
            part = self.parts[name]
            if owned or tensor.ndim == 0 or not part.cuts:
                part = Part(tuple(tensor.shape))
            pieces[f"optimizer/{key}"] = self._piece(tensor, part, SPANS["copy"] if owned else ())
        return pieces

    def full_state(self) -> dict[str, Tensor]:
        """All weights whole, on the CPU of the first process; empty elsewhere."""
        return gather_pieces(self.state(), self.layout, prefix="model/")

    def full_gradients(self) -> dict[str, Tensor]:
        """All gradients whole, on the CPU of the first process; empty elsewhere."""
        pieces = {
            f"model/{name}": self._piece(local_tensor(parameter.grad), self.parts[name])
            for name, parameter in self.parameters.items()
            if parameter.grad is not None
        }
        return gather_pieces(pieces, self.layout, prefix="model/")

    def load(self, source: Source, optimizer: OptimizerSet | None = None) -> None:
        """Take this process's parts of whole weights."""
        fill(self.parameters, self.parts, self.layout, source)
        self.forget_weights()
        if isinstance(optimizer, ShardedOptimizer):
            optimizer.refresh()

    def _piece(self, tensor: Tensor, part: Part, apart: Iterable[str] = ()) -> Piece:
        """`apart`: edges along which the processes hold different things, besides its cuts."""
        place = self.layout.place(self.rank)
        cut = {edge for c in part.cuts for edge in SPANS.get(c.span, SPANS["fsdp"])}
        alike = [edge for edge in EDGES if edge not in {*cut, *apart, "pp"}]
        primary = not part.spare and all(place[edge] == 0 for edge in alike)
        return Piece(tensor, part.shape, part.bounds(self.layout), primary)


def parallelise(
    config: ModelConfig,
    seed: int,
    layout: Layout,
    *,
    source: Source | None = None,
    compute_dtype: torch.dtype = torch.float32,
    before_sharding: Callable[[nn.Module], None] | None = None,
) -> Distributed:
    """Build a model over the processes of a layout; all of them must call this together.

    The order is the one that works: made on the meta device, matrices cut (tensor, expert,
    context parallel), checkpointing and compilation, weights sharded, memory taken, filled.

    Args:
        config: the whole model's.
        seed: each parameter is drawn from (seed, its name).
        layout: how the work is shared out.
        source: gives the weights in place of `seed`.
        compute_dtype: of activations and products.
        before_sharding: does what has to be done to blocks before their weights are sharded:
            activation checkpointing, compilation.

    Raises:
        UserError: something in the model does not divide.
    """
    if layout.pp > 1:
        from langwright.parallel.pipeline import parallelise_stages

        source = source or from_seed(config, seed)
        return parallelise_stages(config, layout, source, compute_dtype, before_sharding)
    context = Context(layout) if layout.cp > 1 else None
    model, parts, shared = cut_model(config, layout, context)
    model.compute_dtype = compute_dtype
    if before_sharding is not None:
        before_sharding(model)
    root: nn.Module = Root(model)
    factor, accumulation = layout.size("dp_replicate"), None
    if layout.size("fsdp") > 1:
        root = shard(
            Root(model), model.blocks, layout, _gather_dtype(config, compute_dtype, layout)
        )
        factor *= layout.size("fsdp")
        accumulation = choose_accumulation(layout, sum(p.numel() for p in model.parameters()))
        parts = sharded_parts(parts)
    model.to_empty(device="cpu" if layout.config.offload else layout.world.device)
    parameters = dict(model.named_parameters())
    fill(parameters, parts, layout, source or from_seed(config, seed))
    if layout.size("fsdp") == 1 and layout.size("dp_replicate") > 1:
        root = replicate(Root(model), layout)
    model.train()
    return Distributed(model, layout, parts, root, shared, factor, context, accumulation)


def cut_model(
    config: ModelConfig, layout: Layout, context: Context | None
) -> tuple[Transformer, dict[str, Part], list[str]]:
    """The model on the meta device with its matrices cut and its tokens and experts shared out.

    Returns:
        It, the part of every parameter that is here, and the names of those whose gradients are
        partial sums over the span "tp".
    """
    with torch.device("meta"):
        model = Transformer(config)
    parts = {name: Part(tuple(p.shape)) for name, p in model.named_parameters()}
    shared: list[str] = []
    if layout.config.ep > 1:
        apply_expert_parallel(model, layout, parts)
    if layout.tp > 1:
        from langwright.parallel.tensor_parallel import apply_tensor_parallel

        shared = apply_tensor_parallel(model, layout, parts)
    if context is not None:
        apply_context_parallel(model, context)
    return model, parts, shared


def sharded_parts(parts: dict[str, Part]) -> dict[str, Part]:
    """Where the parts are after FSDP has shared them out."""
    return {
        name: part.cut("expert_shard" if held_apart(part) else "fsdp", 0)
        for name, part in parts.items()
    }


def _gather_dtype(
    config: ModelConfig, compute_dtype: torch.dtype, layout: Layout
) -> torch.dtype | None:
    """On GPUs a block's weights travel in the dtype of its products, half of fp32's bytes: there
    every weight of a plain block is cast to it before use anyway. Routers, sinks, learned biases
    and offset norms are used in fp32, and so travel."""
    exact = config.experts is not None or config.attention_sinks or config.norm_offset
    if exact or config.position == "relative" or not layout.world.device.startswith("cuda"):
        return None
    return None if compute_dtype == torch.float32 else compute_dtype


def gather_pieces(pieces: dict[str, Piece], layout: Layout, prefix: str) -> dict[str, Tensor]:
    """Send all pieces under `prefix` to the first process and put them together there."""
    own = {
        key.removeprefix(prefix): piece
        for key, piece in pieces.items()
        if key.startswith(prefix) and piece.primary
    }
    table = [[key, list(p.shape), [[b.start, b.stop] for b in p.bounds]] for key, p in own.items()]
    tables: list[Any] = [None] * layout.world.size
    dist.all_gather_object(tables, json.dumps(table))
    device = torch.device(layout.world.device)
    flat = [piece.tensor.detach().reshape(-1).float().to(device) for piece in own.values()]
    sent = torch.cat([torch.zeros(0, device=device), *flat])
    if layout.world.rank != 0:
        dist.send(sent, 0)
        return {}
    whole: dict[str, Tensor] = {}
    for rank, text in enumerate(tables):
        rows = json.loads(text)
        shapes = [[stop - start for start, stop in bounds] for _, _, bounds in rows]
        sizes = [torch.Size(shape).numel() for shape in shapes]
        got = sent if rank == 0 else torch.empty(sum(sizes), device=device)
        if rank:
            dist.recv(got, rank)
        parts = got.cpu().split(sizes)
        for (key, shape, bounds), part, local in zip(rows, parts, shapes, strict=True):
            target = whole.setdefault(key, torch.empty(shape))
            target[tuple(slice(*bound) for bound in bounds)] = part.view(local)
    return whole
