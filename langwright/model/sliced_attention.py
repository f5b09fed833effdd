"""Attention on the CPU, a slice at a time.

Torch's fused CPU kernel does its matrix products outside oneDNN and so misses the processor's bf16
instructions. Here the scores are made for a few rows and 128 queries at a time, small enough to
stay in the core's cache between products, softmax and gradient; each product runs at oneDNN's
speed. Measured on one AVX-512-bf16 core, (32, 6, 256, 64) forward and backward: 44 ms against 130;
(8, 6, 1024, 64): 126 ms against 268. What goes into a product lies in one piece, for torch copies
it otherwise, at every product. The backward pass makes the weights again from q and k, so nothing
of size T x T outlives a slice (the idea of FlashAttention, Dao et al. 2022, arXiv:2205.14135); of
short rows they are kept, for they are fewer than a feed-forward's activations.

It also does what torch's kernel cannot: soft-capped scores, attention sinks, and windows of which
only the keys in sight are touched. Scores are rounded to the inputs' dtype before the softmax,
which works in fp32 inside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from langwright.model.masks import causal_mask

SLICE_BYTES = 1 << 21  # of scores at a time: about what the cache holds
QUERIES = 128  # at a time; later queries of a causal row need keys that earlier ones do not
# Weights are kept for the backward pass where a row has at most so many keys for each number of a
# head: of a model D wide they are then 5 D numbers for each token, a gated feed-forward's some 8 D.
KEPT_KEYS = 8


class Place(NamedTuple):
    """What one slice holds."""

    rows: slice
    queries: slice
    keys: slice


class Options(NamedTuple):
    """What is done to the scores; see `attend`."""

    mask: Tensor | None
    bias: Tensor | None
    sinks: Tensor | None
    scale: float
    softcap: float | None
    window: int | None


def sliced_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    window: int | None = None,
) -> Tensor:
    """`attention_reference` without dropout: q (B, H, T, h), k (B, K, S, h), v (B, K, S, g)
    -> (B, H, T, g).

    mask: bool (B or 1, 1, T, S), True where a query may see a key; None: causal.
    bias (B or 1, H, T, S), sinks (H,), scale, softcap, window: as of `attend`.
    """
    learns = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    keep = learns and softcap is None and sinks is None and k.shape[2] <= KEPT_KEYS * q.shape[3]
    scale = scale or q.shape[-1] ** -0.5
    if torch.compiler.is_compiling():  # the compiler writes them so from the start
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    return _attention(q, k, v, mask, bias, sinks, scale, softcap, window, keep)[0]


@torch.library.custom_op(
    "langwright::sliced_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor? bias, Tensor? sinks, float scale, "
    "float? softcap, int? window, bool keep) -> (Tensor, Tensor)",
)
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    sinks: Tensor | None,
    scale: float,
    softcap: float | None,
    window: int | None,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The output, and all weights, slice after slice (W,), if they are to be kept."""
    options = Options(mask, bias, sinks, scale, softcap, window)
    key_heads, out = k.shape[1], _like_heads(q, v.shape[-1])
    kept = q.new_empty(_kept_size(q, k, options) if keep else 0)
    at = 0
    for place in _slices(q, k.shape[2], options):
        queries, keys, values = _take(q, k, v, place, scale)
        room = _room(kept, at, queries, keys) if keep else None
        at += 0 if room is None else room.numel()
        weights = _weights(queries, keys, key_heads, options, place, room)[0]
        mixed = torch.bmm(weights, values)  # (n, G t, g)
        part = out[place.rows, :, place.queries]
        part.copy_(mixed.view(part.shape))
    return out, kept


@torch.library.custom_op(
    "langwright::sliced_attention_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor? mask, Tensor? bias, Tensor? sinks, "
    "Tensor kept, float scale, float? softcap, int? window, bool by_bias) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    sinks: Tensor | None,
    kept: Tensor,
    scale: float,
    softcap: float | None,
    window: int | None,
    by_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, bias (empty unless `by_bias`) and sinks (empty without) from the
    output's."""
    options, key_heads = Options(mask, bias, sinks, scale, softcap, window), k.shape[1]
    grad_q, grad_k, grad_v = _unfilled(q), _unfilled(k), _unfilled(v)
    if window is not None:  # else the first slices, which see all keys, fill them
        grad_k.zero_(), grad_v.zero_()
    grad_bias, grad_sinks = _grads_of_options(q, bias if by_bias else None, sinks)
    at = 0
    for place in _slices(q, k.shape[2], options):
        queries, keys, values = _take(q, k, v, place, scale)
        if kept.numel():
            weights, slope, sunk = _room(kept, at, queries, keys), None, None
            at += weights.numel()
        else:
            weights, slope, sunk = _weights(queries, keys, key_heads, options, place)
        grad_out = _stack(grad[place.rows, :, place.queries], key_heads)  # (n, G t, g)
        fresh = window is None and place.queries.stop == q.shape[2]
        _gather(grad_v[place.rows, :, place.keys], weights, grad_out, fresh)
        grad_weights = torch.bmm(grad_out, values.transpose(1, 2))  # (n, G t, s)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        if sinks is not None and sunk is not None:
            # The sink's weight gives nothing: d = -weight * sum(weights * grads)
            lost = -sunk * (weights * grad_weights).sum(-1, keepdim=True)  # (n, G t, 1)
            by_head = lost.view(-1, len(sinks), place.queries.stop - place.queries.start)
            grad_sinks += by_head.sum((0, 2), dtype=sinks.dtype)
        if by_bias and bias is not None:
            part = grad_bias[_rows(bias, place.rows), :, place.queries, place.keys]
            by_head = grad_scores.view(-1, *part.shape[1:])
            part += by_head.sum(0, keepdim=True) if bias.shape[0] == 1 else by_head
        if slope is not None:
            grad_scores = grad_scores * slope
        part = grad_q[place.rows, :, place.queries]  # (r, H, t, h)
        torch.mul(torch.bmm(grad_scores, keys).view(part.shape), scale, out=part)
        _gather(grad_k[place.rows, :, place.keys], grad_scores, queries, fresh)
    return grad_q, grad_k, grad_v, grad_bias, grad_sinks


def _slices(q: Tensor, s: int, options: Options) -> Iterator[Place]:
    """Slices of (B, H, T, h) by S keys that together cover every score that is not masked for
    certain; of each row the last queries first."""
    batch, heads, t, _ = q.shape
    window = options.window
    for query in reversed(range(0, t, QUERIES)):
        end = min(t, query + QUERIES)
        # The last of T queries stands at key S: query `end` sees no key after S - T + end.
        last = s - t + end if options.mask is None or window is not None else s
        first = 0 if window is None else max(0, s - t + query - window + 1)
        of_row = heads * (end - query) * (last - first) * q.element_size()
        most = max(1, SLICE_BYTES // of_row)
        rows = math.ceil(batch / max(1, math.ceil(batch / most)))  # even parts of the batch
        for row in range(0, batch, max(1, rows)):
            yield Place(slice(row, min(batch, row + rows)), slice(query, end), slice(first, last))


def _take(
    q: Tensor, k: Tensor, v: Tensor, place: Place, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A slice's scaled queries (n, G t, h), keys (n, s, h) and values (n, s, g)."""
    rows, queries, keys = place
    key_heads = k.shape[1]
    scaled = _stack(q[rows, :, queries], key_heads, scale)
    return scaled, _stack(k[rows, :, keys], key_heads), _stack(v[rows, :, keys], key_heads)


def _stack(x: Tensor, key_heads: int, factor: float = 1.0) -> Tensor:
    """`factor` times (r, H, t, h) -> (n, G t, h) in one piece, as products want it: of each of the
    n = r K pairs of a row and a key head, the G = H / K heads that share the key head, one under
    the other."""
    if factor == 1.0:
        x = x.contiguous()
    else:
        x = torch.mul(x, factor, out=_unfilled(x))
    return x.view(x.shape[0] * key_heads, -1, x.shape[3])


def _gather(into: Tensor, weights: Tensor, x: Tensor, fresh: bool) -> None:
    """Add to keys (r, K, s, h) what queries (n, G t, h) give each by weights (n, G t, s), or begin
    with that."""
    into = into.view(-1, *into.shape[2:])  # (n, s, h)
    into.baddbmm_(weights.transpose(1, 2), x, beta=0.0 if fresh else 1.0)


def _kept_size(q: Tensor, k: Tensor, options: Options) -> int:
    """W, the number of weights in all slices."""
    spans = [[p.stop - p.start for p in place] for place in _slices(q, k.shape[2], options)]
    return q.shape[1] * sum(math.prod(span) for span in spans)


def _room(kept: Tensor, start: int, queries: Tensor, keys: Tensor) -> Tensor:
    """The weights of one slice out of (W,), for its queries (n, G t, h) and keys (n, s, h)."""
    shape = (*queries.shape[:2], keys.shape[1])
    return kept[start : start + math.prod(shape)].view(shape)


def _weights(
    queries: Tensor,
    keys: Tensor,
    key_heads: int,
    options: Options,
    place: Place,
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Of one slice, from its scaled queries (n, G t, h) and its keys (n, s, h): softmax weights
    (n, G t, s), in `out` if that is given, with a cap its slope (like the weights), and with sinks
    their weights (n, G t, 1)."""
    t = place.queries.stop - place.queries.start
    scores = torch.bmm(queries, keys.transpose(1, 2))  # (n, G t, s)
    slope = None
    if options.softcap is not None:
        bent = (scores / options.softcap).tanh_()
        scores, slope = bent * options.softcap, 1 - bent.square()
    groups, s = queries.shape[1] // t, scores.shape[2]
    by_head = scores.view(-1, key_heads, groups, t, s)  # (r, K, G, t, s)
    if options.bias is not None:
        bias = options.bias[_rows(options.bias, place.rows), :, place.queries, place.keys]
        by_head += bias.to(scores.dtype).unflatten(1, (key_heads, -1))
    if options.mask is not None:
        allowed = options.mask[_rows(options.mask, place.rows), :, place.queries, place.keys]
        by_head += _blocked(allowed[:, :, None], scores.dtype)
    else:  # as if the slice's last query stood at its last key
        doubtful = t if options.window is None else s  # all see the keys before
        by_head[..., -doubtful:] += _future(t, doubtful, options.window, scores.dtype)
    if options.sinks is None:
        return torch.softmax(scores, dim=-1, out=out), slope, None
    sinks = options.sinks.to(scores.dtype).view(key_heads, -1, 1, 1)  # (K, G, 1, 1)
    sinks = sinks.expand(*by_head.shape[:4], 1).reshape(*scores.shape[:2], 1)
    weights = torch.softmax(torch.cat((scores, sinks), dim=-1), dim=-1)
    return weights[..., :-1].contiguous(), slope, weights[..., -1:]


def _blocked(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: 0 where `allowed`, else minus infinity."""
    return torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, float("-inf"))


@lru_cache(maxsize=8)
def _future(t: int, s: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """`_blocked` of the last T of S tokens, (T, S); kept, for most slices want the same."""
    return _blocked(causal_mask(t, s, window=window), dtype)


def _rows(x: Tensor, rows: slice) -> slice:
    """These rows of a tensor that may have one row for all."""
    return rows if x.shape[0] > 1 else slice(0, 1)


def _grads_of_options(
    q: Tensor, bias: Tensor | None, sinks: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Zeros to sum into; empty where there is nothing to sum."""
    empty = q.new_zeros(0)
    return (
        empty if bias is None else torch.zeros_like(bias),
        empty.clone() if sinks is None else torch.zeros_like(sinks),
    )


def _unfilled(x: Tensor) -> Tensor:
    """Of the same shape, each head's rows one after another."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _like_heads(x: Tensor, width: int) -> Tensor:
    """An unfilled (B, H, T, width) whose memory is (B, T, H, width), as the projections have it."""
    batch, heads, t, _ = x.shape
    return x.new_empty(batch, t, heads, width).transpose(1, 2)


@_attention.register_fake
def _(q, k, v, mask, bias, sinks, scale, softcap, window, keep):  # type: ignore[no-untyped-def]
    options = Options(mask, bias, sinks, scale, softcap, window)
    kept = q.new_empty(_kept_size(q, k, options) if keep else 0)
    return _like_heads(q, v.shape[-1]), kept


@_attention_backward.register_fake
def _(  # type: ignore[no-untyped-def]
    grad, q, k, v, mask, bias, sinks, kept, scale, softcap, window, by_bias
):
    of_options = _grads_of_options(q, bias if by_bias else None, sinks)
    return _unfilled(q), _unfilled(k), _unfilled(v), *of_options


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.set_materialize_grads(False)  # nobody differentiates by the kept weights
    ctx.save_for_backward(*inputs[:6], output[1])
    ctx.numbers = inputs[6:9]


def _backward(ctx, grad: Tensor, _: Tensor | None):  # type: ignore[no-untyped-def]
    tensors, by_bias = ctx.saved_tensors, ctx.needs_input_grad[4]
    grads = _attention_backward(grad, *tensors, *ctx.numbers, by_bias)
    grad_bias = grads[3] if by_bias else None
    grad_sinks = None if tensors[5] is None else grads[4]
    return *grads[:3], None, grad_bias, grad_sinks, None, None, None, None


_attention.register_autograd(_backward, setup_context=_setup)
