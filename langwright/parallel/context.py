"""Context parallel: the processes of a group share out the tokens of every row.

Everything but attention works on each token by itself. Attention needs the others' keys and values:

- ``allgather``: every process gets all keys and values and answers its own queries (Llama Team
  2024, arXiv:2407.21783, section 3.3.2). With n processes a row is cut into 2n runs, and process i
  takes runs i and 2n - 1 - i: later queries see more keys, and so all have the same work.
- ``ulysses``: an exchange turns tokens of all heads into all tokens of some heads, and a second one
  turns the results back (Jacobs et al. 2023, arXiv:2309.14509).

Only collectives and the model's own attention are used, so every kernel and option works, on every
device. See `Context` for what happens outside training.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from langwright.base import UserError
from langwright.dataset import Batch
from langwright.model import (
    ExpertFeedForward,
    Guide,
    ModelConfig,
    Transformer,
    attend,
    build_guides,
)
from langwright.parallel.collectives import gather, join
from langwright.parallel.layout import Layout

TOKENS = 2  # the dimension of (B, H, T, h) that is shared out
HEADS = 1


@dataclass(frozen=True)
class SharedGuide:
    """Guidance of a process's own tokens in one layer; it goes through blocks like a `Guide`."""

    rotary: tuple[Tensor, Tensor] | None  # of the own tokens
    parts: tuple[Guide, ...]  # of each own run, or (ulysses) of the whole row for the own heads
    ids: Tensor | None = None  # (B, t), own, as of a `Guide`
    first: Tensor | None = None  # (B, t, D)

    def carrying(self, ids: Tensor | None, first: Tensor | None) -> SharedGuide:
        """The same with these."""
        return replace(self, ids=ids, first=first)


class Context:
    """Who has which tokens.

    While `active`, models work on the own tokens of each row; the batches must be cut with `take`.
    Otherwise (evaluation) every process computes whole rows, as if it were alone.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.group, self.count, self.rank = layout.group("cp"), layout.cp, layout.rank("cp")
        self.by_heads = layout.config.cp_method == "ulysses"
        self.active = False

    def runs(self, length: int) -> list[tuple[int, int]]:
        """(first, end) of this process's runs of a row of `length` tokens, in order.

        Raises:
            UserError: the row cannot be cut evenly.
        """
        pieces = self.count if self.by_heads else 2 * self.count
        if length % pieces:
            raise UserError(
                "context parallel shares out the tokens of a row",
                where="parallel.cp",
                found=f"rows of {length} tokens, {self.count} processes",
                expected=f"a sequence_length that {pieces} divides",
            )
        size = length // pieces
        own = [self.rank] if self.by_heads else [self.rank, pieces - 1 - self.rank]
        return [(number * size, (number + 1) * size) for number in own]

    def take(self, batch: Batch) -> Batch:
        """The own tokens of every row. Positions are written out: they count from the row's start
        or the document's, as before."""
        length = batch.inputs.shape[1]
        positions = batch.positions
        if positions is None:
            positions = torch.arange(length, device=batch.inputs.device).expand_as(batch.inputs)
        own = self.runs(length)

        def cut(x: Tensor) -> Tensor:
            return torch.cat([x[:, first:end] for first, end in own], dim=1)

        segments = None if batch.segments is None else cut(batch.segments)
        return Batch(cut(batch.inputs), cut(batch.targets), segments, cut(positions))

    def join(self, x: Tensor, dim: int) -> Tensor:
        """Every process's part -> whole rows, in order; without gradients."""
        return self.in_order(join(x, dim, self.group), dim)

    def gather(self, x: Tensor, dim: int) -> Tensor:
        """Every process's part -> whole rows, in order."""
        return self.in_order(gather(x, dim, self.group), dim)

    def in_order(self, x: Tensor, dim: int) -> Tensor:
        """Runs as the processes have them, one process after another -> as they stand in rows."""
        if self.by_heads:
            return x
        runs = x.chunk(2 * self.count, dim)  # 0, 2n - 1, 1, 2n - 2, ...
        return torch.cat(runs[::2] + runs[::-1][::2], dim)


def apply_context_parallel(model: Transformer, context: Context) -> None:
    """Let the model work on the own tokens of each row while `context` is active.

    Raises:
        UserError: the heads cannot be shared out (ulysses), or the model has dropout.
    """
    check_context(model.config, context.layout)
    model.guides = types.MethodType(_guides(context), model)  # type: ignore[method-assign]
    for block in model.blocks:
        attention: Any = block.attention
        feedforward = block.feedforward
        attention.mix = types.MethodType(_mix(context, attention.mix), attention)
        if isinstance(feedforward, ExpertFeedForward):
            feedforward._loss = _loss_of_all(context, feedforward._loss)  # type: ignore[method-assign]


def check_context(config: ModelConfig, layout: Layout) -> None:
    """Refuse what cannot be shared out, with the reason."""
    from langwright.parallel.tensor_parallel import refuse_dropout

    refuse_dropout(config, "cp")
    if config.smear:
        raise UserError(
            "the smear needs the token before, which another process may have",
            where="parallel.cp",
            found="model.smear = true",
            fix="smear = false, or cp = 1",
        )
    heads = config.heads // layout.tp
    if layout.config.cp_method == "ulysses" and heads % layout.cp:
        raise UserError(
            "ulysses shares out the model's heads",
            where="parallel.cp",
            found=f"{heads} heads on each process, over {layout.cp}",
            expected=f"a divisor of {heads}",
            fix='cp_method = "allgather"',
        )


def _guides(context: Context) -> Any:
    def guides(
        model: Transformer, positions: Tensor, segments: Tensor | None = None
    ) -> list[SharedGuide] | list[Guide]:
        """As `Transformer.guides`; positions and segments (B, T) are the own tokens'."""

        def build(queries: tuple[int, int] | None, ids: Tensor, documents: Tensor | None) -> Any:
            return build_guides(
                model.config,
                ids,
                dtype=model.compute_dtype,
                segments=documents,
                dropout=model.config.dropout_attention if model.training else 0.0,
                queries=queries,
            )

        if not context.active:
            return build(None, positions, segments)
        whole = context.join(positions, 1)  # (B, T)
        documents = None if segments is None else context.join(segments, 1)
        own = context.runs(whole.shape[1])
        if context.by_heads:
            tables = build(own[0], whole, documents)
            by_run = [build(None, whole, documents)]
        else:
            by_run = [build(run, whole, documents) for run in own]
            tables = None
        shared: dict[tuple[int, ...], SharedGuide] = {}
        layers = []
        for layer, parts in enumerate(zip(*by_run, strict=True)):
            key = tuple(id(part) for part in parts)
            if key not in shared:
                turned = [tables[layer]] if tables is not None else list(parts)
                shared[key] = _share(context, turned, parts)
            layers.append(shared[key])
        return layers

    return guides


def _share(context: Context, turned: list[Guide], parts: tuple[Guide, ...]) -> SharedGuide:
    """One layer's guide: the tables of `turned` in a row, the biases' own heads."""
    rotary = None
    tables = [guide.rotary for guide in turned if guide.rotary is not None]
    if tables:
        rotary = (
            torch.cat([cos for cos, _ in tables], dim=-2),
            torch.cat([sin for _, sin in tables], dim=-2),
        )
    layout = context.layout
    own = []
    for part in parts:
        bias = part.bias  # (1 or B, H, T, S)
        if bias is not None:
            bias = bias.chunk(layout.tp, HEADS)[layout.rank("tp")]
            if context.by_heads:
                bias = bias.chunk(context.count, HEADS)[context.rank]
        own.append(part._replace(rotary=None, bias=bias))
    return SharedGuide(rotary, tuple(own))


def _mix(context: Context, usual: Any) -> Any:
    """The attention of the own tokens; `usual` is the module's own `mix`."""

    def mix(module: nn.Module, q: Tensor, k: Tensor, v: Tensor, guide: Any) -> Tensor:
        """q (B, H, t, h), k (B, K, t, h), v (B, K, t, g) of the own tokens -> (B, t, H g)."""
        if not isinstance(guide, SharedGuide):
            return usual(q, k, v, guide)
        if context.by_heads:
            return _by_heads(context, module, q, k, v, guide.parts[0])
        both = context.gather(torch.cat((k, v), dim=-1), TOKENS)  # (B, K, S, h + g)
        k, v = both.split((k.shape[-1], v.shape[-1]), dim=-1)
        results = []
        own = context.runs(k.shape[TOKENS])
        queries = q.chunk(len(own), TOKENS)
        for run, part, (_, end) in zip(queries, guide.parts, own, strict=True):
            results.append(usual(run, k[:, :, :end], v[:, :, :end], part))
        return torch.cat(results, dim=1)

    return mix


def _by_heads(
    context: Context, module: Any, q: Tensor, k: Tensor, v: Tensor, guide: Guide
) -> Tensor:
    """All tokens of the own heads."""
    count, rank = context.count, context.rank
    copies = next(n for n in range(1, count + 1) if k.shape[HEADS] * n % count == 0)
    if copies > 1:  # fewer key heads than processes: neighbours of a group get the same ones
        k, v = k.repeat_interleave(copies, HEADS), v.repeat_interleave(copies, HEADS)
    q, k, v = (_exchange(x, HEADS, TOKENS, context.group) for x in (q, k, v))
    bias, sinks = guide.bias, module.sinks
    if guide.buckets is not None and module.bias is not None:
        # (buckets, H)[(B, T, S)] -> (B, T, S, H) -> (B, H, T, S)
        bias = module.bias.chunk(count, 1)[rank][guide.buckets].permute(0, 3, 1, 2)
    y = attend(
        q,
        k,
        v,
        guide.mask,
        bias=bias,
        scale=module.scale,
        softcap=module.softcap,
        sinks=None if sinks is None else sinks.chunk(count)[rank],
        window=guide.window,
        blocks=guide.blocks,
    )
    return _exchange(y, TOKENS, HEADS, context.group).transpose(1, 2).flatten(2)


class _Exchange(torch.autograd.Function):
    """All-to-all: cut along one dimension, joined along another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cut: int, joined: int, group: Any) -> Tensor:
        ctx.dims, ctx.group = (cut, joined), group
        count = dist.get_world_size(group)
        sent = torch.stack(x.chunk(count, cut)).contiguous()
        got = torch.empty_like(sent)
        dist.all_to_all_single(got, sent, group=group)
        return torch.cat(got.unbind(), joined)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        cut, joined = ctx.dims
        return _exchange(grads[0], joined, cut, ctx.group), None, None, None


def _exchange(x: Tensor, cut: int, joined: int, group: Any) -> Tensor:
    return _Exchange.apply(x, cut, joined, group)


def _loss_of_all(context: Context, usual: Any) -> Any:
    """The router's losses are means over all tokens of the micro-batch, not over the own ones."""

    def loss(routing: Any) -> Tensor:
        if not context.active:
            return usual(routing)
        every = type(routing)(
            chosen=join(routing.chosen, 0, context.group),
            weights=routing.weights,  # not looked at
            scores=gather(routing.scores, 0, context.group),
            logits=gather(routing.logits, 0, context.group),
        )
        return usual(every)

    return loss
