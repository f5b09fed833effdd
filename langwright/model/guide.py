"""What a block needs besides the vectors: who may see whom, angles and biases; for some models also
the tokens and their first vectors.

Made once per forward pass and shared by all layers of a kind: those that see a window and those
that see everything, those that turn queries and keys and those that do not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from langwright.model.attention_kernels import kernel_of
from langwright.model.cache import KVCache
from langwright.model.config import ModelConfig
from langwright.model.distance_bias import alibi, relative_buckets
from langwright.model.masks import block_mask, causal_mask, document_mask
from langwright.model.positions import rotary_tables
from langwright.model.rotary_scaling import depends_on_length

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Rotary = tuple[Tensor, Tensor]  # cosine and sine tables, see positions.py


class Guide(NamedTuple):
    """Guidance of one layer's attention; the default is plain causal attention without position."""

    rotary: Rotary | None = None
    """Angles of the tokens, (T, P) or (B, 1, T, P); None: queries and keys are not turned."""
    mask: Tensor | None = None
    """bool (1 or B, 1, T, S), True where query t may see key s; None: the causal mask, or, for a
    single query, every key."""
    bias: Tensor | None = None
    """(1 or B, H, T, S), added to the scores (ALiBi)."""
    buckets: Tensor | None = None
    """int64 (1 or B, T, S): row of the layer's learned bias table for each pair (relative)."""
    window: int | None = None
    """Query t sees no key before S - T + t - window + 1. With a mask this only saves work."""
    blocks: BlockMask | None = None
    """FlexAttention's mask, in place of `mask`."""
    ids: Tensor | None = None
    """(B, T) int64: the tokens, where the layer has a value embedding."""
    first: Tensor | None = None
    """(B, T, D): what the first block was given, where the blocks have residual scalars."""

    def carrying(self, ids: Tensor | None, first: Tensor | None) -> Guide:
        """The same with these."""
        return self._replace(ids=ids, first=first)


def build_guides(
    config: ModelConfig,
    positions: Tensor,
    *,
    dtype: torch.dtype,
    segments: Tensor | None = None,
    dropout: float = 0.0,
    queries: tuple[int, int] | None = None,
) -> list[Guide]:
    """One guide per layer for whole rows of tokens; equal layers share one.

    Args:
        positions: (T,) or (B, T), places inside each token's document.
        dtype: of the activations.
        segments: (B, T), document numbers; tokens of different documents do not see one another.
        dropout: on the attention weights.
        queries: (first, end), of the row only these tokens, which see those before `end`: T is
            then end - first, and S is end. The angles are those of the T tokens.
    """
    first, s = queries or (0, positions.shape[-1])
    t, device = s - first, positions.device
    distances = None
    if config.position in ("alibi", "relative"):
        places = torch.arange(s, device=device)
        distances = (places[first:, None] - places)[None]  # (1, T, S)
    bias, buckets = _biases(config, distances)
    lengths = None
    if depends_on_length(config.rotary_scaling):
        lengths = _text_lengths(positions, segments)
        lengths = lengths if lengths.shape[-1] == 1 else lengths[..., first:s]
    positions = positions[..., first:s]
    segments = None if segments is None else segments[:, :s]

    @functools.cache
    def masks(window: int | None) -> Tensor | None:
        """(1 or B, 1, T, S)"""
        if segments is None:
            return None if window is None else causal_mask(t, s, device, window)[None, None]
        documents = document_mask(segments, first)
        return documents if window is None else documents & causal_mask(t, s, device, window)

    @functools.cache
    def blocks_of(window: int | None) -> BlockMask:
        return block_mask(t, s, window, segments, device)

    def build(local: bool, turned: bool) -> Guide:
        window = config.window if local and config.window and config.window < s else None
        documents = segments is not None
        kernel, _ = kernel_of(
            config,
            device.type,
            dtype,
            t,
            local=local,
            documents=documents,
            dropout=dropout,
            later=first > 0,
        )
        flex = kernel == "flex"
        mask = None if flex else masks(window)
        blocks = blocks_of(window) if flex else None
        rotary = _tables(config, local, positions, lengths, dtype) if turned else None
        return Guide(rotary, mask, bias, buckets, window, blocks)

    return _by_layer(config, build)


def build_cached_guides(
    config: ModelConfig,
    cache: KVCache,
    new: int,
    *,
    dtype: torch.dtype,
    lengths: Tensor | None = None,
) -> list[Guide]:
    """One guide per layer for the next `new` tokens of each row; equal layers share one.

    lengths (B, 1): for rotary scalings that look at it, the length of each row's text.
    """
    positions = cache.positions(new)  # (B, T)

    def build(local: bool, turned: bool) -> Guide:
        distances = None
        if config.position in ("alibi", "relative"):
            own = positions[:1] if cache.even else positions
            distances = own[:, :, None] - cache.key_places(new, local)[:, None]  # (1 or B, T, S)
        bias, buckets = _biases(config, distances)
        window = config.window if local else None
        mask = cache.mask(new, window)
        rotary = _tables(config, local, positions, lengths, dtype) if turned else None
        # Only of an empty cache do the keys come in order, as the guide's window takes it.
        band = None if any(cache.row_lengths) or mask is None else window
        return Guide(rotary, mask, bias, buckets, band)

    return _by_layer(config, build)


def _by_layer(config: ModelConfig, build: Callable[[bool, bool], Guide]) -> list[Guide]:
    """`build(local, turned)` once for each kind of layer that there is; the guide of each layer."""
    kinds = [(config.is_local(i), config.turns(i)) for i in range(config.layers)]
    made = {kind: build(*kind) for kind in set(kinds)}
    return [made[kind] for kind in kinds]


def _tables(
    config: ModelConfig,
    local: bool,
    positions: Tensor,
    lengths: Tensor | None,
    dtype: torch.dtype,
) -> Rotary:
    """Angles in a local or a global layer, in the activations' dtype."""
    base, scaling = config.rotary_base, config.rotary_scaling
    if local and config.rotary_base_local:
        base, scaling = config.rotary_base_local, None
    width, context = config.rotary_width, config.context_length
    cos, sin = rotary_tables(positions, width, base, scaling, context, lengths)
    return cos.to(dtype), sin.to(dtype)


def _biases(config: ModelConfig, distances: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """ALiBi's bias, or the buckets of a learned one, of these distances (1 or B, T, S)."""
    if distances is None:
        return None, None
    if config.position == "alibi":
        return alibi(distances, config.heads), None
    buckets = relative_buckets(distances, config.relative_buckets, config.relative_distance)
    return None, buckets


def _text_lengths(positions: Tensor, segments: Tensor | None) -> Tensor:
    """Tokens of the text that each token belongs to, as far as the row holds it: of a shape that
    broadcasts to positions'; (B, T) with segments."""
    if segments is None:
        return positions.amax(dim=-1, keepdim=True) + 1
    index = segments - segments.amin()  # (B, T), from 0
    places = positions.expand(index.shape)
    longest = places.new_zeros(index.shape[0], int(index.amax()) + 1)  # (B, documents)
    return longest.scatter_reduce(1, index, places, "amax").gather(1, index) + 1
