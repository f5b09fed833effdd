"""One layer of the transformer: attention moves information between tokens, the feed-forward works
on each token, and both add what they find to the residual stream."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from langwright.model.attention import Attention, Rotary
from langwright.model.cache import LayerCache
from langwright.model.config import ModelConfig
from langwright.model.feedforward import build_feedforward
from langwright.model.norms import build_norm


class Block(nn.Module):
    """Pre-norm (GPT-2 and later): ``x + drop(f(norm(x)))``, for f attention, then feed-forward.
    Post-norm (Vaswani et al. 2017, GPT-1): ``norm(x + drop(f(x)))``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = build_norm(config, config.width)
        self.attention = Attention(config)
        self.feedforward_norm = build_norm(config, config.width)
        self.feedforward = build_feedforward(config)
        self.pre_norm = config.norm_placement == "pre"
        self.dropout = config.dropout_residual

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None = None,
        mask: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); the arguments are those of `Attention.forward`."""
        if self.pre_norm:
            x = x + self.drop(self.attention(self.attention_norm(x), rotary, mask, cache))
            return x + self.drop(self.feedforward(self.feedforward_norm(x)))
        x = self.attention_norm(x + self.drop(self.attention(x, rotary, mask, cache)))
        return self.feedforward_norm(x + self.drop(self.feedforward(x)))

    def drop(self, x: Tensor) -> Tensor:
        """Inverted dropout on a branch, in training only."""
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
