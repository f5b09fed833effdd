"""The decoder-only transformer: ids -> vectors -> blocks -> logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.base import UserError
from langwright.model.attention import Rotary, document_mask
from langwright.model.block import Block
from langwright.model.cache import KVCache
from langwright.model.config import ModelConfig
from langwright.model.init import initialise
from langwright.model.linear import Embedding, Linear
from langwright.model.losses import at_least_fp32, linear_cross_entropy
from langwright.model.norms import build_norm
from langwright.model.positions import rotary_tables, sinusoids


class Transformer(nn.Module):
    """One model for every family; `config` says which.

    Parameters are fp32. `compute_dtype` (float32, bfloat16 or float16) is the dtype of activations
    and matrix products; norms, softmax statistics and the loss work in fp32 inside.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = torch.float32
        self.tokens = Embedding(config.vocab_size, config.width)  # (V, D)
        if config.position == "learned":
            self.positions = Embedding(config.context_length, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        # Post-norm blocks end in a norm already.
        self.norm = build_norm(config, config.width) if config.norm_placement == "pre" else None
        self.head = None if config.tied else Linear(config.width, config.vocab_size, bias=False)
        if not self.tokens.weight.is_meta:
            initialise(self, config, seed)

    @property
    def head_weight(self) -> Tensor:
        """(V, D): the head's matrix; a tied model has only the embedding's, the same tensor."""
        return self.tokens.weight if self.head is None else self.head.weight

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.tokens.weight.device

    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        *,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """ids (B, T) int64 -> logits (B, T, V) fp32; with targets (B, T): (logits, mean loss).

        segments (B, T): document numbers; tokens of different documents do not see one another.
        positions (B, T): places inside the document; default 0 ... T-1.
        """
        logits = self.logits(self.hidden(ids, segments=segments, positions=positions, cache=cache))
        if targets is None:
            return logits
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)

    def hidden(
        self,
        ids: Tensor,
        *,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """ids (B, T) -> the vectors (B, T, D) after the final norm, in the compute dtype."""
        self._check(ids, positions)
        if cache is not None:
            if segments is not None or positions is not None:
                raise ValueError("with a cache, tokens follow those held: no segments or positions")
            return self._hidden_cached(ids, cache)
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)  # (T,)
        mask = None if segments is None else document_mask(segments)  # (B, 1, T, T)
        x, rotary = self.embed(ids, positions)
        for block in self.blocks:
            x = block(x, rotary, mask)
        return x if self.norm is None else self.norm(x)

    def _hidden_cached(self, ids: Tensor, cache: KVCache) -> Tensor:
        """As `hidden`, the tokens following those in `cache`. Blocks run uncompiled: S grows with
        every token, and each new shape would be compiled again."""
        cache.check_room(*ids.shape)
        x, rotary = self.embed(ids, cache.positions(ids.shape[1]))
        mask = cache.mask(ids.shape[1])  # (B, 1, T, S)
        for block, layer in zip(self.blocks, cache.layers, strict=True):
            x = block.forward(x, rotary, mask, layer)
        return x if self.norm is None else self.norm(x)

    def embed(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, Rotary | None]:
        """Vectors (B, T, D) in the compute dtype, and the angles that attention needs, if any."""
        config = self.config
        x = self.tokens(ids)  # (B, T, D) fp32
        if config.position == "learned":
            x = x + self.positions(positions)
        elif config.position == "sinusoidal":
            x = x + sinusoids(positions, config.width)
        x = F.dropout(x.to(self.compute_dtype), config.dropout_embedding, self.training)
        if config.position != "rotary":
            return x, None
        cos, sin = rotary_tables(positions, config.head_size, config.rotary_base)
        return x, (cos.to(self.compute_dtype), sin.to(self.compute_dtype))

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V) fp32."""
        logits = F.linear(hidden, self.head_weight.to(hidden.dtype))
        return logits.to(at_least_fp32(logits.dtype))

    def loss(
        self,
        ids: Tensor,
        targets: Tensor,
        *,
        segments: Tensor | None = None,
        positions: Tensor | None = None,
        chunk_tokens: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Summed cross entropy (fp32, nats) and the number of targets that are not -100.

        The logits never stand whole: see `linear_cross_entropy`, also for `chunk_tokens`.
        """
        hidden = self.hidden(ids, segments=segments, positions=positions)
        return linear_cross_entropy(
            hidden.flatten(0, 1), self.head_weight, targets.flatten(), chunk_tokens
        )

    def _check(self, ids: Tensor, positions: Tensor | None) -> None:
        """Say clearly what torch would say darkly. Values are looked at on the CPU only: on a GPU
        that would make it wait."""
        if torch.compiler.is_compiling():
            return
        config = self.config
        if ids.dim() != 2 or ids.numel() == 0:
            raise UserError(
                "the model got no tokens" if ids.dim() == 2 else "ids must be a batch",
                where="ids",
                found=f"shape {tuple(ids.shape)}",
                expected="(B, T), both at least 1",
            )
        if (
            config.position == "learned"
            and positions is None
            and (ids.shape[1] > config.context_length)
        ):
            raise _too_long(ids.shape[1], config.context_length)
        if ids.device.type != "cpu":
            return
        low, high = (int(x) for x in ids.aminmax())
        if low < 0 or high >= config.vocab_size:
            raise UserError(
                "token id outside the model's vocabulary",
                where="ids",
                found=low if low < 0 else high,
                expected=f"0 ... {config.vocab_size - 1}",
                fix="use the tokenizer that the model was trained with",
            )
        if config.position == "learned" and positions is not None:
            last = int(positions.max())
            if last >= config.context_length:
                raise _too_long(last + 1, config.context_length)


def _too_long(length: int, context_length: int) -> UserError:
    return UserError(
        "the text is longer than the model's learned positions",
        where="ids",
        found=f"{length} tokens",
        expected=f"at most context_length = {context_length}",
        fix="cut the text, or train a model with a longer context_length",
    )


def build_model(
    config: ModelConfig, seed: int = 0, device: torch.device | str = "cpu"
) -> Transformer:
    """A model whose parameters are each drawn from (seed, its name); the same on every device."""
    with torch.device("meta"):
        model = Transformer(config)
    model.to_empty(device=device)
    initialise(model, config, seed)
    return model
