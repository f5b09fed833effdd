"""Tensor parallel: the processes of a group share out every matrix of every block.

In a block's attention each process has some of the heads, in its feed-forward some of the hidden
width; each makes a partial result, and the results are added up (Megatron-LM, Shoeybi et al. 2019,
arXiv:1909.08053, section 3). Between these regions all hold the same vectors, or, with sequence
parallel, each a part of the tokens (Korthikanti et al. 2022, arXiv:2205.05198, section 4.2).

The model's own code runs unchanged on smaller matrices; hooks at the regions' borders join and
share out. Embedding, head and loss: see vocabulary.py.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.base import UserError
from langwright.model import ExpertFeedForward, Guide, ModelConfig, RMSNorm, Transformer
from langwright.parallel.collectives import (
    gather,
    gather_alike,
    reduce_scatter,
    scatter,
    sum_backward,
    sum_forward,
)
from langwright.parallel.cuts import Part
from langwright.parallel.layout import Layout
from langwright.parallel.vocabulary import share_vocabulary

TOKENS = 1  # the dimension of (B, T, D) that sequence parallel shares out

# Last parts of the names of parameters that are cut, and the dimension: output features (heads,
# hidden width) of what opens a region, input features of what closes it.
ATTENTION_CUTS = {
    "q.weight": 0,
    "q.bias": 0,
    "k.weight": 0,
    "k.bias": 0,
    "v.weight": 0,
    "v.bias": 0,
    "values.table.weight": 1,  # (V, K h)
    "values.gate.weight": 0,
    "q_up.weight": 0,
    "kv_up.weight": 0,
    "out.weight": 1,
    "sinks": 0,  # (H,)
    "bias": 1,  # of relative positions, (buckets, H)
}
FEEDFORWARD_CUTS = {
    "gate.weight": 0,
    "gate.bias": 0,
    "up.weight": 0,
    "up.bias": 0,
    "down.weight": 1,
    "shared.gate.weight": 0,
    "shared.gate.bias": 0,
    "shared.up.weight": 0,
    "shared.up.bias": 0,
    "shared.down.weight": 1,
    "gate": 1,  # of experts, (E, F, D)
    "up": 1,
    "down": 2,  # (E, D, F)
}
CLOSING = ("out", "down", "shared.down")  # linears whose bias must be added once, not by all


def apply_tensor_parallel(model: Transformer, layout: Layout, parts: dict[str, Part]) -> list[str]:
    """Cut the model's matrices, still on the meta device, over the span "tp".

    Args:
        parts: what is cut is noted here.

    Returns:
        Names of uncut parameters of which every process sees a part of the work only: their
        gradients must be added up over the group.

    Raises:
        UserError: heads or widths do not divide, or the model has dropout.
    """
    check_divisible(model.config, layout)
    shared: list[str] = []
    group, sequence = layout.group("tp"), layout.config.sequence_parallel
    block: Any
    for index, block in enumerate(model.blocks):
        attention, feedforward = block.attention, block.feedforward
        for name, module, cuts in (
            ("attention", attention, ATTENTION_CUTS),
            ("feedforward", feedforward, FEEDFORWARD_CUTS),
        ):
            prefix = f"blocks.{index}.{name}."
            shared += [prefix + inner for inner in _cut(module, prefix, cuts, layout, parts)]
            _add_bias_once(module, layout)
            _open_and_close(module, group, sequence)
        if hasattr(attention, "heads"):
            attention.heads //= layout.tp
        attention.register_forward_pre_hook(_own_biases(layout))
        _norm_all_heads(attention, f"blocks.{index}.attention.", layout, parts, shared)
        if isinstance(feedforward, ExpertFeedForward):
            feedforward.register_forward_hook(_count_router_loss_once(layout.tp))
    if sequence:
        _share_tokens(model, group)
        regions = (".attention.", ".feedforward.")
        shared += [
            name
            for name, _ in model.named_parameters()
            if name.startswith(("blocks.", "backout.", "norm."))
            and not any(r in name for r in regions)
        ]
    _join_before_head(model, layout)
    if layout.config.loss_parallel:
        share_vocabulary(model, layout, parts)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    return [name for name in shared if name in trained]


def check_divisible(config: ModelConfig, layout: Layout) -> None:
    """Refuse what cannot be shared out, with the reason."""
    sizes = [("heads", config.heads)]
    if config.latent is None:
        sizes.append(("kv_heads", config.key_heads))
    plain = any(not config.has_experts(layer) for layer in range(config.layers))
    if plain:
        sizes.append(("hidden_width", config.hidden_size))
    if config.experts is not None:
        sizes.append(("experts.hidden_width", config.experts.hidden_width or config.hidden_size))
        sizes.append(("experts.shared_width", config.experts.shared_width))
    for name, size in sizes:
        if size % layout.tp:
            raise UserError(
                f"tensor parallel shares out the model's {name}",
                where="parallel.tp",
                found=f"{size} over {layout.tp} processes",
                expected=f"a divisor of {size}",
            )
    refuse_dropout(config, "tp")


def refuse_dropout(config: ModelConfig, degree: str) -> None:
    """Processes that work on the same rows would draw other masks than one process does, or the
    same mask for different tokens."""
    for name in ("dropout_embedding", "dropout_attention", "dropout_residual"):
        if (rate := getattr(config, name)) > 0.0:
            raise UserError(
                "the processes that share out a row cannot draw its dropout masks alike",
                where=f"model.{name}",
                found=f"{rate} with parallel.{degree} > 1",
                fix=f"{name} = 0, or only data parallel (dp_replicate, dp_shard)",
            )


def _cut(
    module: nn.Module, prefix: str, cuts: dict[str, int], layout: Layout, parts: dict[str, Part]
) -> Iterator[str]:
    """Cut a region's parameters; gives the names of those that stay whole."""
    for name in [name for name, _ in module.named_parameters()]:
        if name in cuts:
            cut_parameter(module, name, prefix, cuts[name], layout, parts)
        else:
            yield name


def cut_parameter(
    module: nn.Module, name: str, prefix: str, dim: int, layout: Layout, parts: dict[str, Part]
) -> None:
    """Replace a parameter by one of the shape of this process's part."""
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    old = getattr(owner, leaf)
    part = parts[prefix + name] = parts[prefix + name].cut("tp", dim)
    shape = [bound.stop - bound.start for bound in part.bounds(layout)]
    new = torch.empty(shape, dtype=old.dtype, device=old.device)
    setattr(owner, leaf, nn.Parameter(new, requires_grad=old.requires_grad))


def _open_and_close(module: nn.Module, group: Any, sequence: bool) -> None:
    """Join tokens on the way into a region, add up partial results on the way out."""

    def enter(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = gather(args[0], TOKENS, group) if sequence else sum_backward(args[0], group)
        return (x, *args[1:])

    def leave(module: nn.Module, args: tuple[Any, ...], y: Tensor) -> Tensor:
        return reduce_scatter(y, TOKENS, group) if sequence else sum_forward(y, group)

    module.register_forward_pre_hook(enter)
    module.register_forward_hook(leave)


def _add_bias_once(module: nn.Module, layout: Layout) -> None:
    """Of the partial results only the first process's has the bias in it."""
    if layout.rank("tp") == 0:
        return
    for name, linear in module.named_modules():
        if name in CLOSING and getattr(linear, "bias", None) is not None:
            linear.forward = types.MethodType(_without_bias, linear)


def _without_bias(linear: nn.Linear, x: Tensor) -> Tensor:
    """The product alone. The bias is there with a factor of 0: it has a gradient on every process,
    as the collectives need."""
    return F.linear(x, linear.weight.to(x.dtype), (linear.bias * 0).to(x.dtype))


def _own_biases(layout: Layout) -> Any:
    """Of the biases by distance (1 or B, H, T, S) the own heads'."""

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(args) > 1 and isinstance(args[1], Guide) and args[1].bias is not None:
            bias = args[1].bias.chunk(layout.tp, 1)[layout.rank("tp")]
            return (args[0], args[1]._replace(bias=bias), *args[2:])
        return args

    return hook


def _norm_all_heads(
    attention: nn.Module, prefix: str, layout: Layout, parts: dict[str, Part], shared: list[str]
) -> None:
    """Query and key norms over all heads together: the mean square is taken over the group."""
    if getattr(attention, "norm_heads", True) or not hasattr(attention, "q_norm"):
        return
    group = layout.group("tp")

    def forward(norm: RMSNorm, x: Tensor) -> Tensor:
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        squares = exact.square().sum(dim=-1, keepdim=True)
        mean = sum_backward(sum_forward(squares, group), group) / norm.width
        y, scale = exact * (mean + norm.eps).rsqrt(), norm.scale()
        return (y if scale is None else y * scale).to(x.dtype)

    for name in ("q_norm", "k_norm"):
        norm = getattr(attention, name)
        norm.forward = types.MethodType(forward, norm)
        if norm.weight is not None:
            cut_parameter(attention, f"{name}.weight", prefix, 0, layout, parts)
            shared.remove(f"{prefix}{name}.weight")


def _count_router_loss_once(tp: int) -> Any:
    """Every process finds the same router loss; each gives its share of the gradient."""

    def hook(module: ExpertFeedForward, args: Any, y: Tensor) -> None:
        if (loss := module.router_loss) is not None:
            module.router_loss = loss / tp + (loss - loss / tp).detach()

    return hook


def _share_tokens(model: Transformer, group: Any) -> None:
    """Share out the tokens of each row after the embedding."""
    embed, tp = model.embed, torch.distributed.get_world_size(group)

    def embed_part(ids: Tensor, positions: Tensor, segments: Tensor | None = None) -> Tensor:
        if ids.shape[1] % tp:
            raise UserError(
                "sequence parallel shares out the tokens of a row",
                where="parallel.sequence_parallel",
                found=f"{ids.shape[1]} tokens over {tp} processes",
                fix="a sequence_length that tp divides, or sequence_parallel = false",
            )
        return scatter(embed(ids, positions, segments), TOKENS, group)

    model.embed = embed_part  # type: ignore[method-assign]


def _join_before_head(model: Transformer, layout: Layout) -> None:
    """Behind the last norm every process has all tokens again."""
    group, config = layout.group("tp"), layout.config

    def join(module: nn.Module, args: Any, y: Tensor) -> Tensor:
        if config.sequence_parallel:
            joined = gather if config.loss_parallel else gather_alike
            return joined(y, TOKENS, group)
        return sum_backward(y, group) if config.loss_parallel else y

    last = model.blocks[-1] if model.norm is None else model.norm
    last.register_forward_hook(join)
