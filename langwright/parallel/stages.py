"""A model cut into stages: runs of layers, the first with the embedding, the last with the head."""

from __future__ import annotations

import itertools
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from langwright.base import UserError
from langwright.model import ExpertFeedForward, ModelConfig, Transformer, parameter_count
from langwright.parallel.later import Later


@dataclass
class Stage:
    """One stage, on the process where it is."""

    index: int
    count: int
    layers: list[int]
    model: Transformer  # without what other stages have
    root: nn.Module  # what is called to run it: FSDP's root, or a plain `Root`
    router: RouterShare
    later: Later | None = None  # zero-bubble: puts off gradients of weights

    @property
    def first(self) -> bool:
        """Whether it gets token ids."""
        return self.index == 0

    @property
    def last(self) -> bool:
        """Whether it gives the loss."""
        return self.index == self.count - 1


class RouterShare:
    """The router losses of a stage's layers. They cannot go through the head's stage: each stage
    lets its own start where its activations end, with the weight that they have in the loss.

    Attributes:
        weight: factor of a micro-batch's loss sum in what is differentiated.
        total: sum of the losses so far, as parts of the loss sum.
    """

    def __init__(self, layers_with_experts: int) -> None:
        self.layers = layers_with_experts  # of the whole model
        self.weight: float | Tensor = 1.0
        self.tokens = 0  # counted targets of the micro-batch
        self.total: Tensor | float = 0.0

    def attach(self, x: Tensor, blocks: Sequence[nn.Module]) -> Tensor:
        """`x` itself; its backward pass begins that of the losses that `blocks` have left."""
        found = []
        for block in blocks:
            layer = block.feedforward
            if isinstance(layer, ExpertFeedForward) and layer.router_loss is not None:
                found.append(layer.router_loss)
                layer.router_loss = None
        if not found or not torch.is_grad_enabled():
            return x
        loss = torch.stack(found).sum() * (self.tokens / self.layers)
        self.total = self.total + loss.detach()
        return _Attach.apply(x, loss * self.weight)


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor) -> Tensor:
        ctx.like = loss
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        return grads[0], torch.ones_like(ctx.like)


def stage_layers(config: ModelConfig, count: int) -> list[list[int]]:
    """The layers of each of `count` stages: runs whose largest cost, counted in weights used per
    token (the head belongs to the last stage), is as small as can be.

    Raises:
        UserError: fewer layers than stages.
    """
    if config.layers < count:
        raise UserError(
            "every stage of a pipeline needs a layer",
            where="parallel.pp",
            found=f"{config.layers} layers, {count} stages",
            fix="a smaller pp (with the interleaved schedule each process has several stages)",
        )
    if config.unexported:
        raise UserError(
            "a pipeline hands on the stream alone, and this model looks back past it",
            where="parallel.pp",
            found=", ".join(f"model.{name} = true" for name in config.unexported),
            fix="pp = 1, and dp_shard or tp in its place; or a preset langwright-fast-*",
        )
    counts = parameter_count(config)
    head = config.vocab_size * config.width
    used = counts.attention + counts.feedforward - counts.resting
    block = max(1, used // config.layers)
    # best[k][n]: smallest largest cost of the first n layers in k stages, and where the last begins
    costs = [n * block for n in range(config.layers + 1)]
    best = [{0: (0, 0)}]
    for k in range(1, count + 1):
        extra = head if k == count else 0
        row = {}
        for n in range(k, config.layers - (count - k) + 1):
            options = (
                (max(before, costs[n] - costs[start] + extra), -start)
                for start, (before, _) in best[-1].items()
                if start < n
            )
            cost, start = min(options)
            row[n] = (cost, -start)
        best.append(row)
    ends = [config.layers]
    for k in range(count, 0, -1):
        ends.append(best[k][ends[-1]][1])
    ends.reverse()
    return [list(range(start, end)) for start, end in itertools.pairwise(ends)]


def keep_stage(model: Transformer, layers: list[int], first: bool, last: bool) -> RouterShare:
    """Drop from a model on the meta device all that belongs to other stages. Names of parameters
    stay those of the whole model; its `hidden` then works on activations."""
    config = model.config
    blocks = nn.ModuleList()
    for layer in layers:
        blocks.add_module(str(layer), model.blocks[layer])
    model.blocks = blocks
    if not first:
        model.embedding_norm = None
        if config.position == "learned":
            del model.positions
        if not (last and config.tied):
            model.tokens = None  # type: ignore[assignment]
    if not last:
        model.norm = model.head = model.head_bias = None
    share = RouterShare(sum(config.has_experts(layer) for layer in range(config.layers)))
    model.hidden = types.MethodType(_hidden(layers, first, share), model)  # type: ignore[method-assign]
    return share


def _hidden(layers: list[int], first: bool, share: RouterShare) -> Any:
    def hidden(
        model: Transformer, x: Tensor, *, positions: Tensor, segments: Tensor | None = None
    ) -> Tensor:
        """As `Transformer.hidden`; behind the first stage `x` holds the activations (B, T, D) of
        the stage before."""
        if first:
            model._check(x, positions)
            x = model.embed(x, positions)
        guides = model.guides(positions, segments)
        for layer, block in zip(layers, model.blocks, strict=True):
            x = block(x, guides[layer])
        x = share.attach(x, list(model.blocks))
        return x if model.norm is None else model.norm(x)

    return hidden


class StageModels(nn.Module):
    """The models of a process's stages as one, with the names of the whole model.

    `hidden`, `logits` and `loss` are those of the whole model: see `Pipeline`, which gives them.
    """

    def __init__(self, config: ModelConfig, models: Sequence[Transformer]) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList()  # first: what is done to every block is done to these
        for model in models:
            for name, block in model.blocks.named_children():
                self.blocks.add_module(name, block)
        self.models = nn.ModuleList(models)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of activations and products."""
        return self.models[0].compute_dtype  # type: ignore[return-value]

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        for model in self.models:
            model.compute_dtype = dtype  # type: ignore[assignment]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """With the names that they have in the whole model."""
        for name, parameter in super().named_parameters(*args, **options):
            yield _plain(name), parameter

    def named_modules(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Module]]:  # type: ignore[override]
        """With the names that they have in the whole model."""
        for name, module in super().named_modules(*args, **options):
            yield _plain(name), module


def _plain(name: str) -> str:
    """Without the stage's number: models.1.head.weight -> head.weight."""
    parts = name.split(".")
    return ".".join(parts[2:]) if parts[0] == "models" and len(parts) > 2 else name
