"""Pipeline parallel: each process has some of the layers, and a batch goes through them in pieces.

Cutting the model: stages.py. Orders of work: schedules.py. Sending: messages.py. Doing it:
pipeline_update.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from langwright.dataset import Batch
from langwright.model import ModelConfig
from langwright.parallel.accumulation import choose_accumulation
from langwright.parallel.alone import Objective, Result, Sums
from langwright.parallel.context import Context
from langwright.parallel.cuts import Part
from langwright.parallel.data_parallel import Root, shard, sum_gradients
from langwright.parallel.distributed import Distributed, cut_model, sharded_parts
from langwright.parallel.init import Source, fill, local_tensor
from langwright.parallel.later import Later
from langwright.parallel.layout import Layout
from langwright.parallel.messages import Post
from langwright.parallel.pipeline_update import Update, hidden_of, in_flight, joined
from langwright.parallel.schedules import schedule
from langwright.parallel.stages import Stage, StageModels, keep_stage, stage_layers

TIED = "tokens.weight"


class Pipeline(Distributed):
    """This process's stages.

    Args:
        stages: them, in order.
        tied: the group of the first and the last process of the pipeline, which both have the
            embedding's matrix; on others, and for untied models, None.
        others: see `Distributed`.
    """

    def __init__(
        self, model: StageModels, layout: Layout, stages: list[Stage], tied: Any, **others: Any
    ) -> None:
        super().__init__(model, layout, root=model, **others)
        self.stages = {stage.index: stage for stage in stages}
        self.count = stages[0].count
        self.tied = tied
        self.group, self.post = layout.group("pp"), Post(layout)
        self.config = model.config
        whole: Any = model
        whole.hidden, whole.logits, whole.loss = self._hidden, self._logits, self._loss

    @property
    def whole(self) -> bool:
        """No process can use the model by itself."""
        return False

    @property
    def look_part(self) -> tuple[int, int]:
        """See `Alone.look_part`. The head is called for some tokens at a time, so on other rows
        another number of times; but those who share out its weights must all call it as often."""
        return (0, 1) if self.layout.size("fsdp") > 1 else super().look_part

    # -- an update --------------------------------------------------------------------------------

    def rows_at_once(self, rows: int, micro_rows: int) -> int:
        """See `Alone.rows_at_once`."""
        return rows // in_flight(rows, min(rows, micro_rows), self.layout)

    def gradients(
        self,
        objective: Objective,
        micros: Sequence[Batch],
        scale: float | Tensor,
        begin: Callable[[int], None],
    ) -> list[Sums]:
        """See `Alone.gradients`; the batch is cut up anew, so that there is enough to do for all
        processes at a time. The sums are those of the whole pipeline, alike on all its processes.
        """
        batch = joined(micros)
        if batch.positions is None:
            places = torch.arange(batch.inputs.shape[1], device=batch.inputs.device)
            batch = replace(batch, positions=places.expand_as(batch.inputs))
        config = self.layout.config
        pieces = in_flight(batch.rows, micros[0].rows, self.layout)
        flying = batch.split(batch.rows // pieces)
        plan = schedule(config.schedule, self.layout.pp, self.count // self.layout.pp, pieces)
        update = Update(self, objective, flying, scale, plan)
        for action in plan[self.layout.rank("pp")]:
            begin(action.micro)
            update.do(action)
        update.finish()
        self.finish_gradients()
        total, weight = update.total, update.weight
        for stage in self.stages.values():
            total = total + stage.router.total  # a number where no router is: nothing to copy
        sums = torch.stack([total.double(), weight.double()])
        dist.all_reduce(sums, group=self.group)
        return [(sums[0].float(), sums[1])]

    def finish_gradients(self) -> None:
        """Besides, add up the tied matrix's gradients, and those of plain replicas."""
        super().finish_gradients()
        if self.tied is not None:
            sum_gradients([self._gradient(TIED)], self.tied)
        if self.layout.size("fsdp") == 1 and self.layout.size("dp_replicate") > 1:
            every = [self._gradient(name) for name, p in self.parameters.items() if p.requires_grad]
            sum_gradients(every, self.layout.group("dp_replicate"))

    def _gradient(self, name: str) -> Tensor:
        """Of what is here of a parameter; zeros if it had none."""
        parameter = self.parameters[name]
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        return local_tensor(parameter.grad)

    # -- the whole model, without gradients -------------------------------------------------------

    def inside(self, work: Callable[..., Result], *arguments: Any) -> Result:
        """See `Distributed.inside`: `work` is given a model whose `hidden`, `logits` and `loss` go
        through all stages; the results are alike on all processes."""
        with torch.no_grad():
            result = work(self.model, *arguments)
        self.forget_weights()
        return result

    def forget_weights(self) -> None:
        """See `Distributed.forget_weights`."""
        for stage in self.stages.values():
            root: Any = stage.root
            if hasattr(root, "reshard"):
                root.reshard()

    def _hidden(
        self, ids: Tensor, *, segments: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """(B, T) -> (B, T, D) behind the last norm."""

        def work(model: Any, x: Tensor, positions: Tensor) -> Tensor:
            return model.hidden(x, segments=segments, positions=positions)

        x, positions = self._to_last_stage(ids, segments, positions)
        y = ids.new_empty((*ids.shape, self.config.width), dtype=self._dtype)
        if x is not None:
            y = self._last.root(work, x, positions).contiguous()
        return self._from_last_stage(y)

    def _logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V) fp32."""
        vocabulary = self.config.vocab_size
        y = hidden.new_empty((*hidden.shape[:-1], vocabulary), dtype=torch.float32)
        if self.count - 1 in self.stages:
            y = self._last.root(_logits_of, hidden).contiguous()
        return self._from_last_stage(y)

    def _loss(self, ids: Tensor, targets: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        """As `Transformer.loss`."""

        def work(model: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
            return model.loss(x, targets, positions=positions, **options)

        segments, positions = options.get("segments"), options.pop("positions", None)
        x, positions = self._to_last_stage(ids, segments, positions)
        total = torch.zeros((), dtype=torch.float32, device=ids.device)
        if x is not None:
            total = self._last.root(work, x, positions)[0].float()
        return self._from_last_stage(total), (targets != -100).sum()

    @property
    def _last(self) -> Stage:
        return self.stages[self.count - 1]

    @property
    def _dtype(self) -> torch.dtype:
        return self.model.compute_dtype  # type: ignore[return-value]

    def _to_last_stage(
        self, ids: Tensor, segments: Tensor | None, positions: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        """What the last stage gets, where it is, and the positions."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)
        x: Tensor | None = ids if 0 in self.stages else None
        peers, rank = self.layout.peers("pp"), self.layout.rank("pp")
        for index in range(self.count - 1):
            source, target = index % self.layout.pp, (index + 1) % self.layout.pp
            if rank == source and x is not None:
                stage = self.stages[index]
                x = stage.root(hidden_of, x, segments, positions).contiguous()
                dist.send(x, peers[target], group=self.group)
                x = None
            elif rank == target:
                x = self.between(ids)
                dist.recv(x, peers[source], group=self.group)
        return x, positions

    def between(self, ids: Tensor) -> Tensor:
        """An empty tensor like what goes from stage to stage for these ids (B, T)."""
        length = ids.shape[1]
        if self.layout.config.sequence_parallel:
            length //= self.layout.tp
        width = self.config.width
        return torch.empty((ids.shape[0], length, width), dtype=self._dtype, device=self.device)

    def _from_last_stage(self, x: Tensor) -> Tensor:
        dist.broadcast(x, self.layout.peers("pp")[-1], group=self.group)
        return x


def _logits_of(model: Any, hidden: Tensor) -> Tensor:
    return model.logits(hidden)


def parallelise_stages(
    config: ModelConfig,
    layout: Layout,
    source: Source,
    compute_dtype: torch.dtype,
    before_sharding: Callable[[nn.Module], None] | None,
) -> Pipeline:
    """`parallelise` for a layout with a pipeline."""
    from langwright.parallel.tensor_parallel import refuse_dropout

    refuse_dropout(config, "pp")
    context = Context(layout) if layout.cp > 1 else None
    chunks = layout.config.pipeline_chunks if layout.config.schedule == "interleaved" else 1
    division = stage_layers(config, layout.pp * chunks)
    stages, parts, shared = [], {}, []
    for index in range(layout.rank("pp"), len(division), layout.pp):
        stage, its_parts, its_shared = _build_stage(
            config, layout, division, index, context, compute_dtype, before_sharding
        )
        stages.append(stage)
        parts.update(its_parts)
        shared += its_shared
    model = StageModels(config, [stage.model for stage in stages])
    model.to_empty(device="cpu" if layout.config.offload else layout.world.device)
    parameters = dict(model.named_parameters())
    factor, accumulation = 1, None
    if layout.size("fsdp") > 1:
        factor = layout.size("fsdp") * layout.size("dp_replicate")
        parts = sharded_parts(parts)
        accumulation = choose_accumulation(layout, sum(p.numel() for p in parameters.values()))
    tied = None
    if config.tied:
        pairs = [[ranks[0], ranks[-1]] for ranks in layout.groups_of("pp")]
        group, _ = dist.new_subgroups_by_enumeration(pairs)
        if TIED in parts:
            tied, part = group, parts[TIED]
            last = layout.rank("pp") == layout.pp - 1
            parts[TIED] = replace(part, held_by=2 * part.copies(layout), spare=last)
    fill(parameters, parts, layout, source)
    model.train()
    return Pipeline(
        model,
        layout,
        stages,
        tied,
        parts=parts,
        shared=shared,
        factor=factor,
        context=context,
        accumulation=accumulation,
    )


def _build_stage(
    config: ModelConfig,
    layout: Layout,
    division: list[list[int]],
    index: int,
    context: Context | None,
    compute_dtype: torch.dtype,
    before_sharding: Callable[[nn.Module], None] | None,
) -> tuple[Stage, dict[str, Part], list[str]]:
    """One stage, its parameters still on the meta device; with their parts and the names of those
    whose gradients are partial sums (tensor parallel)."""
    model, parts, shared = cut_model(config, layout, context)
    count = len(division)
    router = keep_stage(model, division[index], index == 0, index == count - 1)
    model.compute_dtype = compute_dtype
    here = {name for name, _ in model.named_parameters()}
    later = Later(model) if layout.config.schedule == "zero-bubble" else None
    if before_sharding is not None:
        before_sharding(model)
    root: nn.Module = Root(model)
    if layout.size("fsdp") > 1:
        root = shard(Root(model), model.blocks, layout)
    stage = Stage(index, count, division[index], model, root, router, later)
    parts = {name: part for name, part in parts.items() if name in here}
    return stage, parts, [name for name in shared if name in here]
