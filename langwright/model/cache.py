"""Keys and values of tokens already seen, so that the next token costs one token's work.

Rows of a batch may have different lengths. Token t of row b stands at place ``lengths[b] + t``:
new keys are written there, and each token sees every place up to its own. So right-padded prompts
are exact: the padding lies behind the real tokens, no real token sees it, later ones overwrite it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from langwright.base import UserError
from langwright.model.config import ModelConfig


class LayerCache:
    """One layer's keys and values, each (B, K, capacity, h)."""

    def __init__(self, owner: KVCache, keys: Tensor, values: Tensor) -> None:
        self.owner, self.keys, self.values = owner, keys, values

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write k, v (B, K, T, h) at each row's place; return all so far, (B, K, S, h)."""
        new = k.shape[2]
        lengths = self.owner.row_lengths
        start, end = max(lengths), max(lengths) + new
        if min(lengths) == start:  # every row at the same place: one plain copy
            self.keys[:, :, start:end] = k
            self.values[:, :, start:end] = v
        else:
            places = self.owner.positions(new)[:, None, :, None].expand(k.shape)  # (B, K, T, h)
            self.keys.scatter_(2, places, k.to(self.keys.dtype))
            self.values.scatter_(2, places, v.to(self.values.dtype))
        return self.keys[:, :, :end].to(k.dtype), self.values[:, :, :end].to(v.dtype)


class KVCache:
    """The caches of all layers of one batch.

    Args:
        config: the model's.
        batch: rows B.
        capacity: places per row.
        device, dtype: where and how keys and values are kept; `dtype` is the model's compute dtype.

    Bytes: 2 * layers * K * h * capacity * batch * bytes per value (`kv_cache_bytes`).
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        capacity: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if config.position == "learned" and capacity > config.context_length:
            raise UserError(
                "the cache is longer than the model has learned positions",
                where="capacity",
                found=capacity,
                expected=f"at most context_length = {config.context_length}",
            )
        shape = (batch, config.key_heads, capacity, config.head_size)
        self.capacity = capacity
        self.device = torch.device(device)
        self.row_lengths = [0] * batch
        self._tensor: Tensor | None = None
        # Zeros, not empty: a place never written may be read under a mask, and 0 * NaN is NaN.
        self.layers = [
            LayerCache(
                self,
                torch.zeros(shape, device=device, dtype=dtype),
                torch.zeros(shape, device=device, dtype=dtype),
            )
            for _ in range(config.layers)
        ]

    @property
    def lengths(self) -> Tensor:
        """Tokens held by each row: (B,) int64 on the cache's device."""
        if self._tensor is None:
            self._tensor = torch.tensor(self.row_lengths, device=self.device)
        return self._tensor

    def positions(self, new: int) -> Tensor:
        """Places of the next `new` tokens of each row: (B, T) int64."""
        return self.lengths[:, None] + torch.arange(new, device=self.device)

    def mask(self, new: int) -> Tensor | None:
        """What the next `new` tokens may see: (B, 1, T, S) bool, or None where `attend` needs none
        (nothing held yet, so plain causal; or one token in each row, all rows equally long)."""
        longest = max(self.row_lengths)
        if min(self.row_lengths) == longest and (longest == 0 or new == 1):
            return None
        places = torch.arange(longest + new, device=self.device)
        return (places <= self.positions(new)[:, :, None])[:, None]

    def check_room(self, batch: int, new: int) -> None:
        """Raise where `batch` rows of `new` more tokens do not fit."""
        if batch != len(self.row_lengths):
            raise UserError(
                "ids and cache differ in their number of rows",
                found=batch,
                expected=len(self.row_lengths),
            )
        if (needed := max(self.row_lengths) + new) > self.capacity:
            raise UserError(
                "the key/value cache is full",
                where="capacity",
                found=f"{max(self.row_lengths)} tokens held and {new} new = {needed}",
                expected=f"at most {self.capacity}",
                fix="make the cache longer, or drop old tokens",
            )

    def advance(self, counts: int | Sequence[int] | Tensor) -> None:
        """Count the tokens just written as held: the same for every row, or one number per row."""
        if isinstance(counts, Tensor):
            counts = counts.tolist()
        if isinstance(counts, int):
            counts = [counts] * len(self.row_lengths)
        if len(counts) != len(self.row_lengths):
            raise ValueError(f"{len(counts)} counts for {len(self.row_lengths)} rows")
        self._set_lengths([held + n for held, n in zip(self.row_lengths, counts, strict=True)])

    def select(self, rows: Sequence[int] | Tensor) -> None:
        """Keep these rows, in this order; a row may be taken twice."""
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.device)
        for layer in self.layers:
            layer.keys = layer.keys.index_select(0, index)
            layer.values = layer.values.index_select(0, index)
        self._set_lengths([self.row_lengths[row] for row in index.tolist()])

    def _set_lengths(self, lengths: list[int]) -> None:
        for length in lengths:
            if not 0 <= length <= self.capacity:
                raise ValueError(f"a row of {length} tokens in a cache of {self.capacity}")
        self.row_lengths, self._tensor = lengths, None
