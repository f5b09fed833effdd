"""Multi-head latent attention (DeepSeek-AI 2024, arXiv:2405.04434, section 2.1).

Keys and values of all heads are made from one narrow vector per token, the latent; the position
goes through a second, short key that all heads share. Latent and short key are all that the cache
keeps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from langwright.model.attention import PLAIN, Attention, AttentionScores
from langwright.model.cache import LayerCache
from langwright.model.config import Latent, ModelConfig
from langwright.model.guide import Guide
from langwright.model.linear import Linear
from langwright.model.norms import build_rms_norm
from langwright.model.positions import rotate


class LatentAttention(AttentionScores):
    """Widths: n of a head's part without position, p of the part with it, g of its values, r of
    the latent. A query is (n, p), a key (its head's n, the shared p)."""

    def __init__(self, config: ModelConfig, latent: Latent) -> None:
        super().__init__(config)
        self.heads, self.n, self.p = config.heads, config.head_size, latent.rotary_width
        self.g, self.r = latent.value_width or config.head_size, latent.kv_rank
        queries = config.heads * (self.n + self.p)
        self.query_rank, bias = latent.query_rank, config.qkv_bias
        if latent.query_rank:
            self.q_down = Linear(config.width, latent.query_rank, bias=bias)
            self.q_down_norm = build_rms_norm(config, latent.query_rank)
            self.q_up = Linear(latent.query_rank, queries, bias=False)
        else:
            self.q = Linear(config.width, queries, bias=False)
        self.kv_down = Linear(config.width, self.r + self.p, bias=bias)
        self.kv_norm = build_rms_norm(config, self.r)
        self.kv_up = Linear(self.r, config.heads * (self.n + self.g), bias=False)
        self.out = Linear(config.heads * self.g, config.width, bias=config.attention_out_bias)
        self.interleaved = config.rotary_interleaved

    def forward(self, x: Tensor, guide: Guide = PLAIN, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); the arguments are those of `Attention.forward`."""
        q = self.q_up(self.q_down_norm(self.q_down(x))) if self.query_rank else self.q(x)
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, n + p)
        content, turned = q.split((self.n, self.p), dim=-1)
        latent, key = self.kv_down(x)[:, None].split((self.r, self.p), dim=-1)
        latent = self.kv_norm(latent)  # (B, 1, T, r); key (B, 1, T, p)
        if guide.rotary is not None:
            turned = rotate(turned, *guide.rotary, self.interleaved)
            key = rotate(key, *guide.rotary, self.interleaved)
        if cache is not None:
            latent, key = cache.append(latent, key)  # (B, 1, S, r), (B, 1, S, p)
        form = self._in_the_latent if self._few(x.shape[1]) and cache is not None else self._spread
        return self.out(form(content, turned, latent, key, guide))

    def _spread(
        self, content: Tensor, turned: Tensor, latent: Tensor, key: Tensor, guide: Guide
    ) -> Tensor:
        """Keys and values of all heads made from the latent: as the equations stand."""
        both = self.kv_up(latent[:, 0]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = both.split((self.n, self.g), dim=-1)  # (B, H, S, n), (B, H, S, g)
        k = torch.cat((k, key.expand(-1, self.heads, -1, -1)), dim=-1)
        return self.mix(torch.cat((content, turned), dim=-1), k, v, guide)

    def _in_the_latent(
        self, content: Tensor, turned: Tensor, latent: Tensor, key: Tensor, guide: Guide
    ) -> Tensor:
        """The same with the up-projection moved to the other side: q.(W l) = (W^T q).l and
        sum_s w_s (W l_s) = W (sum_s w_s l_s). One key head of width r + p; nothing is made for the
        S tokens held (section 2.1.3)."""
        matrix = self.kv_up.weight.to(latent.dtype).unflatten(0, (self.heads, -1))  # (H, n + g, r)
        by_key, by_value = matrix.split((self.n, self.g), dim=1)
        q = torch.cat((content @ by_key, turned), dim=-1)  # (B, H, T, r + p)
        y = self.mix(q, torch.cat((latent, key), dim=-1), latent, guide)  # (B, T, H r)
        y = y.unflatten(-1, (self.heads, -1)).transpose(1, 2) @ by_value.transpose(1, 2)
        return y.transpose(1, 2).flatten(2)  # (B, H, T, g) -> (B, T, H g)

    def _few(self, queries: int) -> bool:
        """Whether so few queries cost less on the wide latent than making all keys and values."""
        wider = 2 * self.r - self.n - self.g  # more products per query and key
        return queries * wider < self.r * (self.n + self.g)


def build_attention(config: ModelConfig, layer: int = 0) -> AttentionScores:
    """The kind of attention that the config gives this layer."""
    if config.latent:
        return LatentAttention(config, config.latent)
    return Attention(config, values=config.has_values(layer))
