"""Causal self-attention: every token looks at itself and at what came before.

softmax(Q K^T / sqrt(h) + M) V with M = 0 where token i may see token j, else -infinity
(Vaswani et al. 2017, eq. 1). `attention_reference` is that sentence written out, with the options
that came later; `attend` computes the same with fused kernels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.model.attention_kernels import choose_kernel, dense_mask, flex, sdpa, summed
from langwright.model.cache import LayerCache
from langwright.model.config import ModelConfig
from langwright.model.guide import Guide
from langwright.model.linear import Linear
from langwright.model.masks import causal_mask
from langwright.model.norms import build_rms_norm
from langwright.model.positions import rotate
from langwright.model.rotary_scaling import score_scale
from langwright.model.sliced_attention import sliced_attention
from langwright.model.value_embedding import ValueEmbedding

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

PLAIN = Guide()


class AttentionScores(nn.Module):
    """What every kind of attention does with queries, keys and values once it has them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale, self.softcap = score_scale(config), config.attention_softcap
        self.dropout = config.dropout_attention
        self.sinks = nn.Parameter(torch.empty(config.heads)) if config.attention_sinks else None
        relative = config.position == "relative"
        self.bias = (
            nn.Parameter(torch.empty(config.relative_buckets, config.heads)) if relative else None
        )

    def mix(self, q: Tensor, k: Tensor, v: Tensor, guide: Guide) -> Tensor:
        """Attention under this layer's options: q (B, H, T, h), k (B, K, S, h), v (B, K, S, g)
        -> (B, T, H g)."""
        bias = guide.bias
        if guide.buckets is not None and self.bias is not None:
            # (buckets, H)[(B, T, S)] -> (B, T, S, H) -> (B, H, T, S)
            bias = self.bias[guide.buckets].permute(0, 3, 1, 2)
        y = attend(
            q,
            k,
            v,
            guide.mask,
            self.dropout if self.training else 0.0,
            bias=bias,
            scale=self.scale,
            softcap=self.softcap,
            sinks=self.sinks,
            window=guide.window,
            blocks=guide.blocks,
        )
        return y.transpose(1, 2).flatten(2)


class Attention(AttentionScores):
    """Multi-head attention; with fewer key/value heads than query heads it is grouped (GQA,
    Ainslie et al. 2023, arXiv:2305.13245): query head i uses key/value head floor(i K / H).

    values: with a value embedding, which needs `Guide.ids`.
    """

    def __init__(self, config: ModelConfig, values: bool = False) -> None:
        super().__init__(config)
        self.head_width = h = config.head_size
        queries, keys = config.heads * h, config.key_heads * h
        self.q = Linear(config.width, queries, bias=config.qkv_bias)
        self.k = Linear(config.width, keys, bias=config.qkv_bias)
        self.v = Linear(config.width, keys, bias=config.qkv_bias)
        self.out = Linear(queries, config.width, bias=config.attention_out_bias)
        self.joined: nn.Module | None = None  # in place of q, k and v: all three at once
        self.values = ValueEmbedding(config) if values else None
        self.qk_norm, self.norm_heads = config.qk_norm, config.qk_norm_over == "head"
        if config.qk_norm:
            self.q_norm = build_rms_norm(config, h if self.norm_heads else queries)
            self.k_norm = build_rms_norm(config, h if self.norm_heads else keys)
        self.interleaved = config.rotary_interleaved

    def forward(self, x: Tensor, guide: Guide = PLAIN, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D).

        Args:
            x: one vector for each token.
            guide: who may see whom, angles and biases.
            cache: earlier keys and values, S - T of them; the new ones are written behind them.
        """
        q, k, v = self.project(x)
        v = self.split(v)
        if self.values is not None:
            assert guide.ids is not None
            v = v + self.values(guide.ids, x)
        if self.qk_norm and not self.norm_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = self.split(q), self.split(k)
        if self.qk_norm and self.norm_heads:
            q, k = self.q_norm(q), self.k_norm(k)
        if guide.rotary is not None:
            q = rotate(q, *guide.rotary, self.interleaved)
            k = rotate(k, *guide.rotary, self.interleaved)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, K, S, h)
        return self.out(self.mix(q, k, v, guide))  # (B, T, H h) -> (B, T, D)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, T, H h), keys and values (B, T, K h) of x (B, T, D)."""
        return (self.q(x), self.k(x), self.v(x)) if self.joined is None else self.joined(x)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, H h) -> (B, H, T, h), a view."""
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    window: int | None = None,
    blocks: BlockMask | None = None,
) -> Tensor:
    """`attention_reference` by the fastest kernel that the device has for it.

    The score of a query and a key is ``c tanh(scale q.k / c) + bias``, without the cap c
    ``scale q.k + bias``. The weights are the softmax over the keys that the query may see and,
    with sinks, one more score for each head, whose weight is lost.

    Args:
        q, k, v: (B, H, T, h), (B, K, S, h), (B, K, S, g).
        mask: bool, broadcasting to (B, 1, T, S), True where query t may see key s; None: the causal
            mask, or, for a single query, every key.
        dropout: rate at which weights are set to zero; the others are divided by 1 - rate.
        bias: (B or 1, H, T, S).
        scale: default 1 / sqrt(h).
        softcap: c (Gemma Team 2024, arXiv:2408.00118, section 2).
        sinks: (H,) (Xiao et al. 2023, arXiv:2309.17453, section 3; gpt-oss).
        window: the mask, or the causal mask if that is None, shows query t no key before
            S - T + t - window + 1.
        blocks: FlexAttention's mask; it is used, and `mask` is not looked at.

    Returns:
        (B, H, T, g).
    """
    if blocks is not None:
        return flex(q, k, v, blocks, scale=scale, softcap=softcap, sinks=sinks)
    kernel, _ = choose_kernel(
        q.device.type,
        q.dtype,
        q.shape[2],
        window=window is not None,
        softcap=softcap is not None,
        sinks=sinks is not None,
        dropout=dropout > 0.0,
        blocks=False,
    )
    if kernel == "summed" and mask is not None and bias is None and not dropout:
        return summed(q, k, v, mask, scale)
    if kernel == "sliced":
        return sliced_attention(q, k, v, mask, bias, sinks, scale, softcap, window)
    if kernel in ("sdpa", "summed"):
        return sdpa(q, k, v, mask, dropout, bias=bias, scale=scale, sinks=sinks, window=window)
    return attention_reference(
        q, k, v, mask, dropout, bias=bias, scale=scale, softcap=softcap, sinks=sinks, window=window
    )


def attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    dropout: float = 0.0,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    window: int | None = None,
    blocks: BlockMask | None = None,
) -> Tensor:
    """Attention written out, the scores standing whole (B, H, T, S): what `attend` must equal.
    Arguments and result are those of `attend`."""
    t, s = q.shape[2], k.shape[2]
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)  # (B, H, S, h)
    if blocks is not None:
        mask = dense_mask(blocks, t, s, q.device)
    if mask is None:
        mask = causal_mask(t, s, q.device, window)
    scores = q @ k.transpose(-2, -1) * (scale or q.shape[-1] ** -0.5)  # (B, H, T, S)
    scores = scores.float() if scores.dtype != torch.float64 else scores
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        column = sinks.to(scores.dtype)[None, :, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat((scores, column), dim=-1)  # (B, H, T, S + 1)
    weights = scores.softmax(dim=-1)[..., :s]
    return F.dropout(weights, dropout).to(v.dtype) @ v  # (B, H, T, g)
