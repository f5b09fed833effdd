"""Attention on the CPU, a slice at a time.

Torch's fused CPU kernel does its matrix products outside oneDNN and so misses the processor's bf16
instructions. Here the scores are made for a few rows and 128 queries at a time, small enough to
stay in the core's cache between products, softmax and gradient; each product runs at oneDNN's
speed. Measured on one AVX-512-bf16 core, (32, 6, 256, 64) forward and backward: 67 ms against 143;
length 1,024: 175 ms against 297. The backward pass makes the weights again from q and k, so nothing
of size T x T outlives a slice (the idea of FlashAttention, Dao et al. 2022, arXiv:2205.14135); of
short rows they are kept, for they are fewer than a feed-forward's activations.

It also does what torch's kernel cannot: soft-capped scores, attention sinks, and windows of which
only the keys in sight are touched. Scores are rounded to the inputs' dtype before the softmax,
which works in fp32 inside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from langwright.model.masks import causal_mask

SLICE_BYTES = 1 << 21  # of scores at a time: about what the cache holds
QUERIES = 128  # at a time; later queries of a causal row need keys that earlier ones do not
# Weights are kept for the backward pass where a row has at most so many keys for each number of a
# head: of a model D wide they are then 5 D numbers for each token, a gated feed-forward's some 8 D.
KEPT_KEYS = 8

Place = tuple[slice, slice, slice]  # rows, queries, keys


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
        q, k, v, scale = (q * scale).contiguous(), k.contiguous(), v.contiguous(), 1.0
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
    out = _like_heads(q, v.shape[-1])
    every, k, v = _by_head(q, scale), _by_head(k), _by_head(v)
    kept = q.new_empty(_kept_size(q, k, options) if keep else 0)
    at = 0
    for place in _slices(q, k, options):
        rows, queries, keys = place
        scaled = _queries(every, k, place)
        room = _cut(kept, at, scaled, place) if keep else None
        at += 0 if room is None else room.numel()
        weights = _weights(scaled, k, options, place, room)[0]
        mixed = weights @ v[rows, :, keys]  # (r, K, G t, g)
        out[rows, :, queries] = mixed.view(out[rows, :, queries].shape)
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
    options = Options(mask, bias, sinks, scale, softcap, window)
    grad_q, grad_k, grad_v = _like_heads(q), _like_heads(k).zero_(), _like_heads(v).zero_()
    grad_bias, grad_sinks = _grads_of_options(q, bias if by_bias else None, sinks)
    every, k, v, grad = _by_head(q, scale), _by_head(k), _by_head(v), _by_head(grad)
    at = 0
    for place in _slices(q, k, options):
        rows, queries, keys = place
        scaled = _queries(every, k, place)
        if kept.numel():
            weights, slope, sunk = _cut(kept, at, scaled, place), None, None
            at += weights.numel()
        else:
            weights, slope, sunk = _weights(scaled, k, options, place)
        grad_out = grad[rows, :, queries].reshape(*scaled.shape[:3], -1)  # (r, K, G t, g)
        grad_v[rows, :, keys] += weights.transpose(-2, -1) @ grad_out
        grad_weights = grad_out @ v[rows, :, keys].transpose(-2, -1)  # (r, K, G t, s)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
        if sinks is not None and sunk is not None:
            # The sink's weight gives nothing: d = -weight * sum(weights * grads)
            lost = -sunk * (weights * grad_weights).sum(-1, keepdim=True)  # (r, K, G t, 1)
            grad_sinks += lost.view(lost.shape[0], q.shape[1], -1).sum((0, 2), dtype=sinks.dtype)
        if by_bias and bias is not None:
            by_head = grad_scores.unflatten(2, (-1, queries.stop - queries.start)).flatten(1, 2)
            if bias.shape[0] == 1:
                grad_bias[:, :, queries, keys] += by_head.sum(0, keepdim=True)
            else:
                grad_bias[rows, :, queries, keys] += by_head
        if slope is not None:
            grad_scores = grad_scores * slope
        mixed = grad_scores @ k[rows, :, keys]
        mixed = mixed if scale == 1.0 else mixed.mul_(scale)
        grad_q[rows, :, queries] = mixed.view(grad_q[rows, :, queries].shape)
        grad_k[rows, :, keys] += grad_scores.transpose(-2, -1) @ scaled
    return grad_q, grad_k, grad_v, grad_bias, grad_sinks


def _slices(q: Tensor, k: Tensor, options: Options) -> Iterator[Place]:
    """Slices that together cover every score that is not masked for certain."""
    batch, heads, t, _ = q.shape
    s, window = k.shape[2], options.window
    seen = s if window is None else min(s, window + min(t, QUERIES) - 1)
    rows = max(1, SLICE_BYTES // (heads * min(t, QUERIES) * seen * q.element_size()))
    for row in range(0, batch, rows):
        for query in range(0, t, QUERIES):
            end = min(t, query + QUERIES)
            # The last of T queries stands at key S: query `end` sees no key after S - T + end.
            last = s - t + end if options.mask is None or window is not None else s
            first = 0 if window is None else max(0, s - t + query - window + 1)
            yield slice(row, min(batch, row + rows)), slice(query, end), slice(first, last)


def _by_head(x: Tensor, factor: float = 1.0) -> Tensor:
    """`factor` times (B, H, T, h), with each head's rows one after another: the slices of it then
    go into the products as they are."""
    if factor == 1.0:
        return x.contiguous()
    return torch.mul(x, factor, out=torch.empty_like(x, memory_format=torch.contiguous_format))


def _kept_size(q: Tensor, k: Tensor, options: Options) -> int:
    """W, the number of weights in all slices."""
    spans = [[part.stop - part.start for part in place] for place in _slices(q, k, options)]
    return q.shape[1] * sum(math.prod(span) for span in spans)


def _cut(kept: Tensor, start: int, queries: Tensor, place: Place) -> Tensor:
    """The weights of one slice out of (W,), for its queries (r, K, G t, h): (r, K, G t, s)."""
    shape = (*queries.shape[:3], place[2].stop - place[2].start)
    return kept[start : start + math.prod(shape)].view(shape)


def _queries(scaled: Tensor, k: Tensor, place: Place) -> Tensor:
    """A slice's queries out of the scaled (B, H, T, h): (r, K, G t, h). The G = H / K heads that
    share a key head lie one under the other as rows of one product."""
    rows, queries, _ = place
    return scaled[rows, :, queries].flatten(1, 2).unflatten(1, (k.shape[1], -1))


def _weights(
    scaled: Tensor, k: Tensor, options: Options, place: Place, out: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Of one slice, from its queries: softmax weights (r, K, G t, s), in `out` if that is given,
    with a cap its slope (like the weights), and with sinks their weights (r, K, G t, 1)."""
    rows, queries, keys = place
    key_heads, t = k.shape[1], queries.stop - queries.start
    scores = scaled @ k[rows, :, keys].transpose(-2, -1)  # (r, K, G t, s)
    slope = None
    if options.softcap is not None:
        bent = (scores / options.softcap).tanh_()
        scores, slope = bent * options.softcap, 1 - bent.square()
    by_head = scores.unflatten(2, (-1, t))  # (r, K, G, t, s), a view
    if options.bias is not None:
        bias = options.bias[_rows(options.bias, rows), :, queries, keys].to(scaled.dtype)
        by_head += bias.unflatten(1, (key_heads, -1))
    if options.mask is None:
        # As if the slice's last query stood at its last key.
        allowed = causal_mask(t, keys.stop - keys.start, window=options.window)
    else:
        allowed = options.mask[_rows(options.mask, rows), :, queries, keys][:, :, None]
    blocked = torch.zeros(allowed.shape, dtype=scaled.dtype).masked_fill_(~allowed, float("-inf"))
    by_head += blocked
    if options.sinks is None:
        return torch.softmax(scores, dim=-1, out=out), slope, None
    sinks = options.sinks.to(scaled.dtype).view(key_heads, -1, 1, 1)  # (K, G, 1, 1)
    sinks = sinks.expand(*by_head.shape[:4], 1).reshape(*scores.shape[:3], 1)
    weights = torch.softmax(torch.cat((scores, sinks), dim=-1), dim=-1)
    return weights[..., :-1].contiguous(), slope, weights[..., -1:]


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


def _like_heads(x: Tensor, width: int | None = None) -> Tensor:
    """An unfilled (B, H, T, h) whose memory is (B, T, H, h), as the projections have it."""
    batch, heads, t, h = x.shape
    return x.new_empty(batch, t, heads, width or h).transpose(1, 2)


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
    return _like_heads(q), _like_heads(k), _like_heads(v), *of_options


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
