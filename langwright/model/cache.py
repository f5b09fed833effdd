"""Keys and values of tokens already seen, so that the next token costs one token's work.

Rows of a batch may have different lengths. Token t of row b stands at place ``lengths[b] + t``:
new keys are written there, and each token sees every place up to its own. So right-padded prompts
are exact: the padding lies behind the real tokens, no real token sees it, later ones overwrite it.

Layers that see only a window of the last W tokens keep W places, a ring: place p stands in slot
p mod W.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from langwright.base import UserError
from langwright.model.config import ModelConfig
from langwright.model.rotary_scaling import depends_on_length
from langwright.model.text_history import History

Pair = tuple[Tensor, Tensor]


class LayerCache:
    """What one layer keeps of every token: two tensors (B, K, capacity, width).

    Keys and values; for latent attention (K = 1) the latent vector and the rotary key.
    """

    def __init__(self, owner: KVCache, kept: Pair) -> None:
        self.owner, self.kept = owner, kept

    def append(self, *new: Tensor) -> Pair:
        """Write the new (B, K, T, width) at each row's place; all so far, (B, K, S, width)."""
        count = new[0].shape[2]
        lengths = self.owner.row_lengths
        start, end = max(lengths), max(lengths) + count
        if min(lengths) == start:  # every row at the same place: one plain copy
            for kept, x in zip(self.kept, new, strict=True):
                kept[:, :, start:end] = x
        else:
            places = self.owner.positions(count)[:, None, :, None]  # (B, 1, T, 1)
            for kept, x in zip(self.kept, new, strict=True):
                kept.scatter_(2, places.expand(x.shape), x.to(kept.dtype))
        first, second = (k[:, :, :end].to(x.dtype) for k, x in zip(self.kept, new, strict=True))
        return first, second

    def commit(self, counts: Sequence[int]) -> None:
        """`counts` of each row's new tokens are real. Here they stand in their places already."""

    def select(self, rows: Tensor) -> None:
        """Keep these rows (int64), in this order."""
        first, second = (kept.index_select(0, rows) for kept in self.kept)
        self.kept = first, second


class WindowCache(LayerCache):
    """A ring of the last W tokens: two tensors (B, K, W, width).

    A single new token takes the slot of the one that it no longer sees. Of several, some would
    overwrite what the others still see, and padding must not be written at all: they wait until
    `commit` says how many of them are real.
    """

    waiting: Pair | None = None

    def append(self, *new: Tensor) -> Pair:
        """As of `LayerCache`; keys stand where `KVCache.key_places` says."""
        self.waiting = None
        longest, window = max(self.owner.row_lengths), self.kept[0].shape[2]
        if new[0].shape[2] > 1:
            first, second = new
            self.waiting = first, second
            held = [kept[:, :, : min(longest, window)].to(first.dtype) for kept in self.kept]
            return torch.cat((held[0], first), dim=2), torch.cat((held[1], second), dim=2)
        slots = (self.owner.lengths % window)[:, None, None, None]  # (B, 1, 1, 1)
        for kept, x in zip(self.kept, new, strict=True):
            kept.scatter_(2, slots.expand(x.shape), x.to(kept.dtype))
        end = min(longest + 1, window)
        first, second = (k[:, :, :end].to(x.dtype) for k, x in zip(self.kept, new, strict=True))
        return first, second

    def commit(self, counts: Sequence[int]) -> None:
        """Move the last W of each row's `counts` real new tokens into the ring."""
        if self.waiting is None:
            return
        window, new = self.kept[0].shape[2], self.waiting[0].shape[2]
        lengths = self.owner.lengths[:, None]  # (B, 1)
        after = lengths + torch.tensor(counts, device=lengths.device)[:, None]
        index = ring_places(after, window, window) - lengths  # (B, W) which new token, if any
        fresh = (index >= 0)[:, None, :, None]
        index = index.clamp(0, new - 1)[:, None, :, None]
        first, second = (
            torch.where(fresh, x.gather(2, index.expand(*x.shape[:2], -1, x.shape[3])), kept)
            for kept, x in zip(self.kept, (x.to(self.kept[0].dtype) for x in self.waiting))
        )
        self.kept, self.waiting = (first, second), None

    def select(self, rows: Tensor) -> None:
        """Keep these rows (int64), in this order."""
        super().select(rows)
        if self.waiting is not None:
            first, second = (x.index_select(0, rows) for x in self.waiting)
            self.waiting = first, second


def ring_places(lengths: Tensor, window: int, slots: int) -> Tensor:
    """Which place each of the first slots holds after `lengths` (B, 1) tokens: (B, slots) int64;
    negative: none yet."""
    last = lengths - 1
    return last - (last - torch.arange(slots, device=lengths.device)) % window


class KVCache:
    """The caches of all layers of one batch.

    Args:
        config: the model's.
        batch: rows B.
        capacity: places per row.
        device, dtype: where and how keys and values are kept; `dtype` is the model's compute dtype.

    Bytes: `kv_cache_bytes`; layers with a window keep at most that many places, latent attention
    only its latent vector and rotary key. Where the rotary angles depend on the text's length, the
    ids are kept too (`history`): as the angles change, everything held is made anew.
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
        self.capacity = capacity
        self.device = torch.device(device)
        self.row_lengths = [0] * batch
        self._tensor: Tensor | None = None
        # A window that holds the whole capacity needs no ring.
        self.window = config.window if config.window and config.window < capacity else None
        heads = 1 if config.latent else config.key_heads
        self.history = None
        if config.rotary_scaling and depends_on_length(config.rotary_scaling):
            self.history = History(config.rotary_scaling, config.context_length, batch, capacity)
        # The smear mixes each token with the one before, of which keys and values say nothing.
        places = capacity if config.smear else 0
        self.ids = torch.zeros(batch, places, dtype=torch.int64, device=device)
        self.layers: list[LayerCache] = []
        for layer in range(config.layers):
            ring = self.window if config.is_local(layer) else None
            # Zeros, not empty: a place never written may be read under a mask, and 0 * NaN is NaN.
            first, second = (
                torch.zeros(batch, heads, ring or capacity, width, device=device, dtype=dtype)
                for width in _widths(config)
            )
            self.layers.append((WindowCache if ring else LayerCache)(self, (first, second)))

    @property
    def bytes(self) -> int:
        """Bytes that the kept tensors take."""
        return sum(kept.nbytes for layer in self.layers for kept in layer.kept)

    @property
    def lengths(self) -> Tensor:
        """Tokens held by each row: (B,) int64 on the cache's device."""
        if self._tensor is None:
            self._tensor = torch.tensor(self.row_lengths, device=self.device)
        return self._tensor

    @property
    def even(self) -> bool:
        """Whether all rows are equally long."""
        return min(self.row_lengths) == max(self.row_lengths)

    def positions(self, new: int) -> Tensor:
        """Places of the next `new` tokens of each row: (B, T) int64."""
        return self.lengths[:, None] + torch.arange(new, device=self.device)

    def key_places(self, new: int, local: bool = False) -> Tensor:
        """The place of every key that `LayerCache.append` returns to `new` tokens, in a local layer
        or a global one: (1, S) where all rows are alike, else (B, S), int64; negative: no key."""
        longest = max(self.row_lengths)
        if not (local and self.window):
            return torch.arange(longest + new, device=self.device)[None]
        lengths = self.lengths[:1, None] if self.even else self.lengths[:, None]  # (1 or B, 1)
        if new == 1:
            return ring_places(lengths + 1, self.window, min(longest + 1, self.window))
        held = ring_places(lengths, self.window, min(longest, self.window))
        return torch.cat((held, lengths + torch.arange(new, device=self.device)), dim=1)

    def mask(self, new: int, window: int | None = None) -> Tensor | None:
        """What the next `new` tokens may see: (1 or B, 1, T, S) bool, or None where `attend` needs
        none (nothing held yet, so plain causal; or one token in each row, all rows equally long).

        With `window`, of a local layer: only the last `window` tokens, the own included.
        """
        longest = max(self.row_lengths)
        hidden = window is not None and longest + new > window  # some places are out of sight
        if new == 1 and self.even and (not hidden or self.window):
            return None  # a ring holds just what is in sight
        if longest == 0 and not hidden:
            return None
        places = self.key_places(new, window is not None)[:, None]  # (1 or B, 1, S)
        own = (self.positions(new)[:1] if self.even else self.positions(new))[:, :, None]
        seen = (places >= 0) & (places <= own)  # (1 or B, T, S)
        if window is not None:
            seen &= places > own - window
        return seen[:, None]

    def note(self, ids: Tensor) -> None:
        """Keep the next ids (B, T); like keys, they count when `advance` says so."""
        self.ids.scatter_(1, self.positions(ids.shape[1]), ids)

    def before(self) -> Pair:
        """The id before the next one of each row (B, 1), and whether there is one (B, 1) bool."""
        held = self.lengths[:, None]
        return self.ids.gather(1, (held - 1).clamp(min=0)), held > 0

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
        lengths = [held + n for held, n in zip(self.row_lengths, counts, strict=True)]
        for length in lengths:
            if not 0 <= length <= self.capacity:
                raise ValueError(f"a row of {length} tokens in a cache of {self.capacity}")
        for layer in self.layers:
            layer.commit(counts)
        self.row_lengths, self._tensor = lengths, None

    def select(self, rows: Sequence[int] | Tensor) -> None:
        """Keep these rows, in this order; a row may be taken twice."""
        index = torch.as_tensor(rows, dtype=torch.int64, device=self.device)
        for layer in self.layers:
            layer.select(index)
        self.ids = self.ids.index_select(0, index)
        chosen = index.tolist()
        if self.history is not None:
            self.history.select(chosen)
        self.row_lengths, self._tensor = [self.row_lengths[row] for row in chosen], None

    def restart(self) -> list[int]:
        """Hold nothing; return how long the rows were."""
        held, self.row_lengths, self._tensor = self.row_lengths, [0] * len(self.row_lengths), None
        return held


def _widths(config: ModelConfig) -> tuple[int, int]:
    """Widths of the two vectors that a layer keeps per head and token."""
    if config.latent:
        return config.latent.kv_rank, config.latent.rotary_width
    return config.head_size, config.head_size
