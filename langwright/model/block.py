"""One layer of the transformer: attention moves information between tokens, the feed-forward works
on each token, and both add what they find to the residual stream."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from langwright.model.attention import PLAIN
from langwright.model.cache import LayerCache
from langwright.model.config import ModelConfig
from langwright.model.experts import ExpertFeedForward
from langwright.model.feedforward import build_feedforward
from langwright.model.guide import Guide
from langwright.model.latent_attention import build_attention
from langwright.model.norms import build_norm
from langwright.model.residual_scalars import ResidualScalars


class Block(nn.Module):
    """For f attention, then feed-forward, by the config's ``norm_placement``:

    - pre (GPT-2 and later): ``x + drop(f(norm(x)))``
    - post (Vaswani et al. 2017, GPT-1): ``norm(x + drop(f(x)))``
    - output (OLMo 2, arXiv:2501.00656, section 3.3): ``x + drop(norm(f(x)))``
    - sandwich (Gemma 2, arXiv:2408.00118, section 2): ``x + drop(norm'(f(norm(x))))``

    Parallel (Wang & Komatsuzaki 2021, GPT-J; GPT-NeoX): both branches read the same x:
    ``x + drop(attention(norm(x))) + drop(feedforward(norm'(x)))``.
    """

    def __init__(self, config: ModelConfig, layer: int = 0) -> None:
        super().__init__()
        self.placement = config.norm_placement
        self.parallel = config.parallel
        self.dropout = config.dropout_residual
        self.residual = ResidualScalars() if config.residual_scalars else None
        if self.placement != "output":
            self.attention_norm = build_norm(config, config.width)
        self.attention = build_attention(config, layer)
        if self.placement in ("output", "sandwich"):
            self.attention_out_norm = build_norm(config, config.width)
        if self.placement != "output":
            self.feedforward_norm = build_norm(config, config.width)
        self.feedforward = (
            ExpertFeedForward(config, config.experts)
            if config.experts and config.has_experts(layer)
            else build_feedforward(config)
        )
        if self.placement in ("output", "sandwich"):
            self.feedforward_out_norm = build_norm(config, config.width)

    def forward(self, x: Tensor, guide: Guide = PLAIN, cache: LayerCache | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D); guide and cache are those of `Attention.forward`."""
        if self.residual is not None:
            assert guide.first is not None
            x = self.residual(x, guide.first)
        if self.placement == "pre":
            mixed = self.drop(self.attention(self.attention_norm(x), guide, cache))
            if self.parallel:
                return x + mixed + self.drop(self.feedforward(self.feedforward_norm(x)))
            x = x + mixed
            return x + self.drop(self.feedforward(self.feedforward_norm(x)))
        if self.placement == "post":
            x = self.attention_norm(x + self.drop(self.attention(x, guide, cache)))
            return self.feedforward_norm(x + self.drop(self.feedforward(x)))
        sandwich = self.placement == "sandwich"
        inner = self.attention_norm(x) if sandwich else x
        x = x + self.drop(self.attention_out_norm(self.attention(inner, guide, cache)))
        inner = self.feedforward_norm(x) if sandwich else x
        return x + self.drop(self.feedforward_out_norm(self.feedforward(inner)))

    def drop(self, x: Tensor) -> Tensor:
        """Inverted dropout on a branch, in training only."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
