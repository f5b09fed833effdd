"""The decoder-only transformer: ids -> vectors -> blocks -> logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.base import UserError
from langwright.model.backout import Backout
from langwright.model.block import Block
from langwright.model.cache import KVCache, LayerCache
from langwright.model.config import ModelConfig
from langwright.model.guide import Guide, build_cached_guides, build_guides
from langwright.model.init import initialise
from langwright.model.linear import Embedding, Linear
from langwright.model.losses import head_logits, linear_cross_entropy
from langwright.model.norms import build_norm
from langwright.model.positions import sinusoids
from langwright.model.router_losses import router_losses
from langwright.model.smear import Smear


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
        self.embedding_norm = build_norm(config, config.width) if config.embedding_norm else None
        self.smear = Smear(config) if config.smear else None
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.backout = Backout(config.layers) if config.backout else None
        # Post-norm blocks end in a norm already.
        self.norm = build_norm(config, config.width) if config.norm_placement != "post" else None
        self.head = None if config.tied else Linear(config.width, config.vocab_size, bias=False)
        self.head_bias = nn.Parameter(torch.empty(config.vocab_size)) if config.head_bias else None
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
        counts: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """ids (B, T) int64 -> logits (B, T, V) fp32; with targets (B, T): (logits, mean loss).

        segments (B, T): document numbers; tokens of different documents do not see one another.
        positions (B, T): places inside the document; default 0 ... T-1.
        cache, counts: see `hidden`.
        """
        hidden = self.hidden(
            ids, segments=segments, positions=positions, cache=cache, counts=counts
        )
        logits = self.logits(hidden)
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
        counts: Tensor | None = None,
    ) -> Tensor:
        """ids (B, T) -> the vectors (B, T, D) after the final norm, in the compute dtype.

        cache: what was seen before; the ids follow it, and `cache.advance` then counts them.
        counts (B,): with a cache, how many ids of each row are real, the others padding behind
        them; default all. Only rotary scalings that look at the text's length need it.
        """
        self._check(ids, positions)
        if cache is not None:
            if segments is not None or positions is not None:
                raise ValueError("with a cache, tokens follow those held: no segments or positions")
            return self._hidden_cached(ids, cache, counts)
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)  # (T,)
        x = self.embed(ids, positions, segments)
        return self.through(x, self.carrying(ids, x, self.guides(positions, segments)))

    def _hidden_cached(self, ids: Tensor, cache: KVCache, counts: Tensor | None) -> Tensor:
        """As `hidden`, the tokens following those in `cache`."""
        batch, new = ids.shape
        cache.check_room(batch, new)
        if cache.history is None:
            return self._follow(ids, cache)
        added = [new] * batch if counts is None else counts.tolist()
        lengths = [held + n for held, n in zip(cache.row_lengths, added, strict=True)]
        after = torch.tensor(lengths, device=ids.device)[:, None]  # (B, 1)
        if cache.history.outdated(cache.row_lengths, lengths):
            held = cache.restart()
            self._follow(cache.history.ids[:, : max(held)].to(ids.device), cache, after)
            cache.advance(held)
        cache.history.write(ids, cache.row_lengths, lengths)
        return self._follow(ids, cache, after)

    def _follow(self, ids: Tensor, cache: KVCache, lengths: Tensor | None = None) -> Tensor:
        """lengths (B, 1): of the texts, where the angles depend on them."""
        x = self.embed_next(ids, cache)
        guides = build_cached_guides(
            self.config, cache, ids.shape[1], dtype=self.compute_dtype, lengths=lengths
        )
        return self.through(x, self.carrying(ids, x, guides), cache.layers)

    def carrying(self, ids: Tensor, first: Tensor, guides: Sequence[Guide]) -> list[Guide]:
        """The layers' guides with the tokens (B, T) and the first vectors (B, T, D), where a layer
        looks at them."""
        config = self.config
        if not (config.residual_scalars or config.value_embeddings):
            return list(guides)
        x = first if config.residual_scalars else None
        return [
            guide.carrying(ids if config.has_values(layer) else None, x)
            for layer, guide in enumerate(guides)
        ]

    def through(
        self, x: Tensor, guides: Sequence[Guide], caches: Sequence[LayerCache] | None = None
    ) -> Tensor:
        """(B, T, D) through the blocks and the final norm. With caches blocks run uncompiled: S
        grows with every token, and each new shape would be compiled again."""
        half = x
        for layer, (block, guide) in enumerate(zip(self.blocks, guides, strict=True)):
            x = block(x, guide) if caches is None else block.forward(x, guide, caches[layer])
            if self.backout is not None and layer == self.backout.layer:
                half = x
        if self.backout is not None:
            x = self.backout(x, half)
        return x if self.norm is None else self.norm(x)

    def embed_next(self, ids: Tensor, cache: KVCache) -> Tensor:
        """As `embed`, of the ids that follow those in the cache."""
        positions = cache.positions(ids.shape[1])
        if self.smear is None:
            return self.embed(ids, positions)
        # The token before them is made once more: only its id is known.
        before, known = cache.before()  # (B, 1)
        cache.note(ids)
        places = torch.cat(((positions[:, :1] - 1).clamp(min=0), positions), dim=1)
        texts = F.pad(known.long() - 1, (0, ids.shape[1]))  # (B, 1 + T); -1: no token there
        return self.embed(torch.cat((before, ids), dim=1), places, texts)[:, 1:]

    def embed(self, ids: Tensor, positions: Tensor, segments: Tensor | None = None) -> Tensor:
        """Vectors (B, T, D) in the compute dtype; positions (T,) or (B, T). segments (B, T): see
        `hidden`."""
        config = self.config
        x = self.tokens(ids)  # (B, T, D) fp32
        if config.embedding_scale is not None:
            x = x * config.embedding_scale
        if config.position == "learned":
            x = x + self.positions(positions)
        elif config.position == "sinusoidal":
            x = x + sinusoids(positions, config.width)
        x = x.to(self.compute_dtype)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        if self.smear is not None:
            x = self.smear(x, segments)
        return F.dropout(x, config.dropout_embedding, self.training)

    def guides(self, positions: Tensor, segments: Tensor | None = None) -> list[Guide]:
        """What the attention of each layer needs; positions (T,) or (B, T), segments (B, T)."""
        return build_guides(
            self.config,
            positions,
            dtype=self.compute_dtype,
            segments=segments,
            dropout=self.config.dropout_attention if self.training else 0.0,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, V) fp32."""
        return head_logits(hidden, self.head_weight, self.head_bias, self.config.logit_softcap)

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

        In training the router losses of experts come in, times the number of targets, so that
        they add to the mean. The logits never stand whole: see `linear_cross_entropy`, also for
        `chunk_tokens`.
        """
        hidden = self.hidden(ids, segments=segments, positions=positions)
        total, count = linear_cross_entropy(
            hidden.flatten(0, 1),
            self.head_weight,
            targets.flatten(),
            chunk_tokens,
            bias=self.head_bias,
            softcap=self.config.logit_softcap,
        )
        if self.training and self.config.experts is not None:
            routers = router_losses(self)
            total = total if routers is None else total + routers * count
        return total, count

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
