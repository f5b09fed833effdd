"""A second token table, added to the values of attention: what a token says to those that look at
it need not all be made from the stream. Many parameters, hardly any work."""

from __future__ import annotations

from torch import Tensor, nn

from langwright.model.config import GATE_CHANNELS, ModelConfig
from langwright.model.linear import Embedding, Linear

OPEN = 3.0  # the widest that a gate can be; at the start each is half open


class ValueEmbedding(nn.Module):
    """v_t <- v_t + 3 sigmoid(W x_t[:12]) table[id_t], one gate for each key/value head (Karpathy
    2026, nanochat's gpt.py; after Zhou et al. 2024, arXiv:2410.17897, and modded-nanogpt)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.channels = min(GATE_CHANNELS, config.width)
        self.head_width = config.head_size
        self.table = Embedding(config.vocab_size, config.key_heads * config.head_size)  # (V, K h)
        self.gate = Linear(self.channels, config.key_heads, bias=False)

    def forward(self, ids: Tensor, x: Tensor) -> Tensor:
        """ids (B, T), attention's input x (B, T, D) -> what is added to v: (B, K, T, h)."""
        gates = OPEN * self.gate(x[..., : self.channels]).sigmoid()  # (B, T, K)
        values = self.table(ids).to(x.dtype).unflatten(-1, (-1, self.head_width))  # (B, T, K, h)
        return (gates[..., None] * values).transpose(1, 2)
