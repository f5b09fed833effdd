"""Causal self-attention: every token looks at itself and at what came before.

softmax(Q K^T / sqrt(h) + M) V with M = 0 where token i may see token j, else -infinity
(Vaswani et al. 2017, eq. 1). `attention_reference` is that sentence written out; `attend` computes
the same with fused kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.model.cache import LayerCache
from langwright.model.config import ModelConfig
from langwright.model.linear import Linear
from langwright.model.norms import RMSNorm
from langwright.model.positions import rotate
from langwright.model.sliced_attention import sliced_attention, slicing_pays

Rotary = tuple[Tensor, Tensor]  # cosine and sine tables, see positions.py


class Attention(nn.Module):
    """Multi-head attention; with fewer key/value heads than query heads it is grouped (GQA,
    Ainslie et al. 2023, arXiv:2305.13245): query head i uses key/value head floor(i K / H)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_width = h = config.head_size
        queries, keys = config.heads * h, config.key_heads * h
        self.q = Linear(config.width, queries, bias=config.qkv_bias)
        self.k = Linear(config.width, keys, bias=config.qkv_bias)
        self.v = Linear(config.width, keys, bias=config.qkv_bias)
        self.out = Linear(queries, config.width, bias=config.attention_out_bias)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = RMSNorm(h, config.norm_eps, config.norm_affine)
            self.k_norm = RMSNorm(h, config.norm_eps, config.norm_affine)
        self.dropout = config.dropout_attention

    def forward(
        self, x: Tensor, rotary: Rotary | None, mask: Tensor | None, cache: LayerCache | None = None
    ) -> Tensor:
        """(B, T, D) -> (B, T, D).

        Args:
            x: one vector for each token.
            rotary: turn queries and keys by these angles; None: no rotary position.
            mask: bool (B or 1, 1, T, S), True where query t may see key s; None: the causal mask,
                or, for a single query, every key.
            cache: earlier keys and values, S - T of them; the new ones are written behind them.
        """
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        if cache is not None:
            k, v = cache.append(k, v)  # (B, K, S, h)
        y = attend(q, k, v, mask, dropout=self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, T, H h) -> (B, T, D)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, H h) -> (B, H, T, h), a view."""
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """`attention_reference` by the fastest kernel that the device has for it.

    q (B, H, T, h); k, v (B, K, S, h); mask as in `Attention.forward` -> (B, H, T, h).
    """
    causal = mask is None and q.shape[2] > 1
    if dropout == 0.0 and slicing_pays(q):
        return sliced_attention(q, k, v, mask)
    grouped = q.shape[1] != k.shape[1]
    if grouped and mask is not None and q.is_cuda:
        # CUDA's memory-saving kernel takes a mask but no groups; without it the scores stand whole.
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        grouped = False
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, enable_gqa=grouped
    )


def attention_reference(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0
) -> Tensor:
    """Attention written out, the scores standing whole (B, H, T, S): what `attend` must equal."""
    t, s = q.shape[2], k.shape[2]
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)  # (B, H, S, h)
    if mask is None:
        mask = causal_mask(t, s, q.device)
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (B, H, T, S)
    scores = scores.float() if scores.dtype != torch.float64 else scores
    weights = scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    return F.dropout(weights, dropout).to(v.dtype) @ v  # (B, H, T, h)


def causal_mask(t: int, s: int, device: torch.device | str = "cpu") -> Tensor:
    """(T, S) bool: the last T of S tokens may see themselves and everything before."""
    return torch.ones(t, s, dtype=torch.bool, device=device).tril(s - t)


def document_mask(segments: Tensor) -> Tensor:
    """Several documents in one row must not see one another: (B, T) -> (B, 1, T, T) bool.

    `segments` numbers each token's document within its row. Padding (-1) sees earlier padding, so
    that no row of the softmax is empty.
    """
    same = segments[:, :, None] == segments[:, None, :]  # (B, T, T)
    return (same & causal_mask(segments.shape[1], segments.shape[1], segments.device))[:, None]
