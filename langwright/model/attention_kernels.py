"""Which kernel computes attention, and the kernels of torch fitted to our options.

- ``sdpa``: torch's fused `scaled_dot_product_attention`.
- ``sliced``: our own form for CPUs, see sliced_attention.py.
- ``summed``: one query at a time in compiled code.
- ``flex``: torch's FlexAttention, compiled for CUDA: soft caps, sinks, and windows, documents and
  later queries (context parallel) of which only the blocks in sight are touched (Dong et al. 2024,
  arXiv:2412.05496).
- ``written out``: `attention_reference`, the scores standing whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from langwright.model.compiler import prepare_compiler
from langwright.model.config import ModelConfig
from langwright.model.masks import BLOCK, causal_mask

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

FLEX_QUERIES = BLOCK  # with fewer there is nothing to skip
FLEX_WIDTH = 16  # the narrowest head that it takes
FLEX_FORMS = 64  # shapes and masks that it is compiled for
FLEX_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SLICED_QUERIES = 16  # with fewer the slices' bookkeeping costs more than it saves


def choose_kernel(
    device: str,
    dtype: torch.dtype,
    queries: int,
    *,
    window: bool = False,
    softcap: bool = False,
    sinks: bool = False,
    documents: bool = False,
    dropout: bool = False,
    later: bool = False,
    blocks: bool = True,
) -> tuple[str, str]:
    """The kernel's name, and why it was chosen.

    Args:
        device: "cpu", "cuda", ...
        dtype: of queries, keys and values.
        queries: T, tokens at a time.
        window, softcap, sinks, documents, dropout: which options are in use.
        later: the queries are the last ones of more keys, each of which sees all before it.
        blocks: FlexAttention's mask can be made: see `kernel_of`.
    """
    blocks = blocks and queries >= FLEX_QUERIES and dtype in FLEX_DTYPES and not dropout
    if device == "cuda" and blocks and (softcap or sinks or window or documents):
        return "flex", "soft caps, sinks, windows and documents in one fused kernel"
    if device == "cuda" and blocks and later:
        return "flex", "torch's kernel takes later queries only with a mask of all pairs"
    if device == "cpu" and queries >= SLICED_QUERIES and not dropout:
        if softcap:
            return "sliced", "torch's kernel has no soft cap; this one never holds all scores"
        if dtype == torch.bfloat16:
            return "sliced", "bf16 on CPU: uses the processor's bf16 products"
    if device == "cpu" and queries == 1 and torch.compiler.is_compiling() and not sinks | softcap:
        return "summed", "one query, compiled: products as sums, in one loop with the pages"
    if softcap:
        if dropout:
            return "written out", "no fused kernel has a soft cap and dropout"
        return "written out", "torch's kernel has no soft cap"
    if sinks:
        return "sdpa", "sinks as one more key, whose value is zero"
    return "sdpa", "torch's fused kernel"


def kernel_of(
    config: ModelConfig,
    device: str,
    dtype: torch.dtype,
    queries: int,
    *,
    local: bool = False,
    documents: bool = False,
    dropout: float = 0.0,
    later: bool = False,
    cached: bool = False,
) -> tuple[str, str]:
    """`choose_kernel` for a local or a global layer of this model. `cached`: keys in a cache grow
    in number with every step, and FlexAttention would be compiled anew for each."""
    window = local and config.window is not None and config.window < queries
    widths = [config.head_size]
    if config.latent:
        widths.append(config.latent.value_width or config.head_size)
    biased = config.position in ("alibi", "relative")  # stands whole: nothing for flex to save
    return choose_kernel(
        device,
        dtype,
        queries,
        window=window,
        softcap=config.attention_softcap is not None,
        sinks=config.attention_sinks,
        documents=documents,
        dropout=dropout > 0.0,
        later=later,
        blocks=min(widths) >= FLEX_WIDTH and not biased and not cached,
    )


def attention_kernel(
    config: ModelConfig,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    queries: int | None = None,
    training: bool = False,
) -> tuple[str, str]:
    """What this model's attention runs on, to be told to people: (name, reason).

    Args:
        queries: tokens at a time; default the context length.
        training: whole rows, with attention dropout where the model has it; else a text is read
            into a cache.

    Where local and global layers differ, or rows of one document and of several, both are named.
    """
    kind, queries = torch.device(device).type, queries or config.context_length
    dropout = config.dropout_attention if training else 0.0

    def told(documents: bool) -> tuple[str, str]:
        found = {
            local: kernel_of(
                config,
                kind,
                dtype,
                queries,
                local=local,
                documents=documents,
                dropout=dropout,
                cached=not training,
            )
            for local in sorted({config.is_local(layer) for layer in range(config.layers)})
        }
        if len({name for name, _ in found.values()}) == 1:
            return next(iter(found.values()))
        words = {True: "local layers", False: "global layers"}
        return (
            ", ".join(f"{name} in {words[local]}" for local, (name, _) in found.items()),
            "; ".join(f"{words[local]}: {reason}" for local, (_, reason) in found.items()),
        )

    (plain, why), (packed, why_packed) = told(False), told(training)
    if plain == packed:
        return plain, why
    return (
        f"{plain}; {packed} where rows hold several documents",
        f"{why}; several documents: {why_packed}",
    )


def sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout: float,
    *,
    bias: Tensor | None,
    scale: float | None,
    sinks: Tensor | None,
    window: int | None,
) -> Tensor:
    """Torch's fused kernel; arguments and result as of `attend`.

    A sink is a key of zeros with the sink's logit as bias and zeros as value.
    """
    t, s = q.shape[2], k.shape[2]
    causal = False
    if mask is None and (t > 1 or window is not None):
        causal = True  # a branch, for where shapes are left open, even bool() is a symbol
    if causal and (window is not None or bias is not None or sinks is not None or t != s):
        mask, causal = causal_mask(t, s, q.device, window), False
    if bias is not None or sinks is not None:
        bias = q.new_zeros(1, 1, t, s) if bias is None else bias.to(q.dtype)
        mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
    if sinks is not None and mask is not None:
        column = sinks.to(q.dtype)[None, :, None, None]  # (1, H, 1, 1)
        mask = mask.expand(-1, q.shape[1], -1, -1)
        mask = torch.cat((mask, column.expand(mask.shape[0], -1, t, 1)), dim=-1)  # (., H, T, S + 1)
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    grouped = q.shape[1] != k.shape[1]
    if grouped and t == 1 and not q.is_cuda and (mask is None or mask.shape[1] == 1):
        # The query heads of a group see the same keys: as several queries of one head they need no
        # group form, which in bf16 on a CPU is 5 to 18 times slower.
        folded = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])  # (B, K, H / K, h)
        y = F.scaled_dot_product_attention(folded, k, v, mask, dropout, scale=scale)
        return y.reshape(*q.shape[:3], v.shape[3])
    if grouped and mask is not None and q.is_cuda:
        # CUDA's memory-saving kernel takes a mask but no groups; without it the scores stand whole.
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        grouped = False
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, causal, scale=scale, enable_gqa=grouped
    )


def summed(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """One query for each row, its products written as sums: compiled for a CPU they become one
    loop with what makes k and v, and no gathered copy of these ever stands in memory.

    q (B, H, 1, h), k (B, K, S, h), v (B, K, S, g), mask (B, 1, 1, S) -> (B, H, 1, g).
    """
    folded = q.float().unflatten(1, (k.shape[1], -1))  # (B, K, G, 1, h)
    scores = (folded * k.float()[:, :, None]).sum(-1) * (scale or q.shape[-1] ** -0.5)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1)  # (B, K, G, S)
    y = (weights[..., None] * v.float()[:, :, None]).sum(-2)  # (B, K, G, g)
    return y.to(v.dtype).flatten(1, 2)[:, :, None]


def flex(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    blocks: BlockMask,
    *,
    scale: float | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """FlexAttention; arguments and result as of `attend`.

    A sink z takes its share of the weight afterwards: with l the logsumexp of a query's scores,
    exp(l) / (exp(l) + exp(z)) = sigmoid(l - z) of the output is left.
    """

    def cap(score: Tensor, *place: Tensor) -> Tensor:
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    y = _flex_function(q.device.type)(
        q,
        k,
        v,
        score_mod=None if softcap is None else cap,
        block_mask=blocks,
        scale=scale,
        enable_gqa=q.shape[1] != k.shape[1],
        return_lse=sinks is not None,
    )
    if sinks is None:
        return y
    y, sums = y  # (B, H, T, g), (B, H, T)
    left = torch.sigmoid(sums - sinks.to(sums.dtype)[None, :, None])
    return y * left[..., None].to(y.dtype)


def dense_mask(blocks: BlockMask, t: int, s: int, device: torch.device) -> Tensor:
    """FlexAttention's mask as bool (B or 1, 1, T, S)."""
    from torch.nn.attention.flex_attention import create_mask

    return create_mask(blocks.mask_mod, blocks.shape[0], None, t, s, device=device)


def _flex_function(device: str) -> Callable[..., Any]:
    """FlexAttention, compiled for CUDA unless a whole block is being compiled anyway."""
    from torch.nn.attention.flex_attention import flex_attention

    if device != "cuda" or torch.compiler.is_compiling():
        return flex_attention
    return _compiled_flex()


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    """FlexAttention compiled, also where everything else runs uncompiled (evaluation in training):
    the scores of the uncompiled one stand whole."""
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)

    def run(*arguments: Any, **options: Any) -> Any:
        prepare_compiler(FLEX_FORMS)
        with torch.compiler.set_stance("default"):
            return compiled(*arguments, **options)

    return run
