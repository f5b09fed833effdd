"""Keys and values in pages, read and written by the model as if they were one `KVCache`.

A page holds `block_tokens` tokens of `sublayers` layers. `PagedStore` owns the memory;
`TextPages` says where one text's tokens stand; `PagedCache` puts some texts together as the rows of
one forward pass. Nothing is copied when a text joins or leaves a batch.

Layers that see a window keep the blocks in sight only. To make one kind of page serve both kinds of
layers, a page holds as many layers as divides both counts: with 20 local and 4 global layers a page
holds 4, a local block takes 5 pages and a global one 1. So memory goes where the texts need it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from langwright.generate.blocks import Block
from langwright.model import KVCache, LayerCache, ModelConfig, depends_on_length

GLOBAL, LOCAL = "global", "local"
ZEROS, WASTE = 0, 1  # pages: one that is never written, one that is never read
RESERVED = 2
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Layout:
    """How the layers of a model lie in pages."""

    block_tokens: int
    sublayers: int  # layers in a page
    block_pages: dict[str, int]  # pages of a block of each kind of layers that there is
    place: list[tuple[str, int, int]]  # of each layer: kind, page within the block, sublayer
    window: int  # tokens that local layers see; 0 without such layers

    @classmethod
    def of(cls, config: ModelConfig, block_tokens: int) -> Layout:
        """The layout for a model.

        A window that holds the whole context is none. Where the angles follow the text's length,
        everything may have to be made anew, so local layers keep all tokens too.
        """
        window = config.window or 0
        if window >= config.context_length or follows_length(config):
            window = 0
        kinds = [LOCAL if window and config.is_local(i) else GLOBAL for i in range(config.layers)]
        counts = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
        sub = math.gcd(*counts.values())
        number = dict.fromkeys(counts, 0)
        place = []
        for kind in kinds:
            place.append((kind, number[kind] // sub, number[kind] % sub))
            number[kind] += 1
        pages = {kind: count // sub for kind, count in counts.items()}
        return cls(block_tokens, sub, pages, place, window if LOCAL in counts else 0)

    def first_seen(self, kind: str, length: int) -> int:
        """The first place that the token after `length` others sees in layers of this kind."""
        return max(0, length - self.window + 1) if kind == LOCAL else 0

    def blocks(self, tokens: int) -> int:
        """Blocks of one kind for so many tokens."""
        return -(-tokens // self.block_tokens)


@dataclass(eq=False)
class TextPages:
    """Where one text's keys and values stand.

    `tables[kind][i]` is the block of tokens i `block_tokens` and following; None where it is out
    of every later token's sight.
    """

    layout: Layout
    ids: list[int]  # the text, of which `length` tokens are held
    length: int = 0
    tables: dict[str, list[Block | None]] = field(default_factory=dict)
    turned: int = 0  # by which angles it was turned, see `text_history`

    def __post_init__(self) -> None:
        for kind in self.layout.block_pages:
            self.tables.setdefault(kind, [])

    @property
    def room(self) -> int:
        """Tokens for which there are blocks."""
        return min(len(table) for table in self.tables.values()) * self.layout.block_tokens


class PagedStore:
    """The memory: for each layer of a page, two tensors (pages, block_tokens, heads x width).

    Args:
        config: the model's.
        layout: see `Layout`.
        pages: how many, the reserved ones aside.
        device: where.
        dtype: what keys and values are kept as; int8 keeps one fp16 factor per token and head
            beside them (symmetric, rounded to nearest).
    """

    def __init__(
        self,
        config: ModelConfig,
        layout: Layout,
        pages: int,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        self.layout, self.device, self.dtype = layout, torch.device(device), dtype
        self.heads, self.widths = cached_shape(config)
        total = pages + RESERVED

        def tensors(width: int, kind: torch.dtype) -> list[Tensor]:
            shape = (total, layout.block_tokens, self.heads * width)
            return [zeros(shape, kind, self.device) for _ in range(layout.sublayers)]

        self.kept = [tensors(width, dtype) for width in self.widths]  # [keys, values][sublayer]
        self.factors = [tensors(1, torch.float16) for _ in self.widths if dtype == torch.int8]
        self._space: dict[int, Tensor] = {}

    @property
    def bytes(self) -> int:
        """Bytes of all pages."""
        return sum(x.nbytes for half in (*self.kept, *self.factors) for x in half)

    @property
    def token_bytes(self) -> float:
        """Bytes of one token's keys and values in all layers."""
        tokens = self.kept[0][0].shape[0] * self.layout.block_tokens
        return self.bytes / tokens * sum(self.layout.block_pages.values())

    def write(self, half: int, sublayer: int, places: Tensor, x: Tensor) -> None:
        """Put x (B, H, T, width) at places (B T,), counted in tokens from the first page."""
        flat = x.transpose(1, 2).reshape(-1, self.heads, x.shape[-1])  # (B T, H, width)
        kept = self.kept[half][sublayer].flatten(0, 1)  # (tokens, H width)
        if self.dtype == torch.int8:
            flat, factor = quantise_rows(flat)
            self.factors[half][sublayer].flatten(0, 1).index_copy_(0, places, factor)
        kept.index_copy_(0, places, flat.flatten(1).to(kept.dtype))

    def read(
        self, half: int, sublayer: int, pages: Tensor, run: int | None, like: Tensor
    ) -> Tensor:
        """The tokens of pages (B, N): (B, N block_tokens, H, width) in the dtype of `like`.

        run: the first page, where there is one row and its pages follow one another: no copy then.
        """
        batch, count = pages.shape
        kept = self._pick(self.kept[half][sublayer], pages, run, half)
        found = kept.view(batch, count * self.layout.block_tokens, self.heads, -1)
        if self.dtype == torch.int8:
            factors = self._pick(self.factors[half][sublayer], pages, run, 2 + half)
            return found.to(like.dtype) * factors.view(*found.shape[:3], 1).to(like.dtype)
        return found.to(like.dtype)

    def wipe(self, blocks: Sequence[Block]) -> None:
        """Set blocks to zero: what a text of NaNs left must not reach the next one."""
        pages = torch.tensor([page for block in blocks for page in block.pages], device=self.device)
        for half in (*self.kept, *self.factors):
            for x in half:
                x.index_fill_(0, pages, 0)

    def copy(self, source: Block, to: Block) -> None:
        """What stands in one block into another of its kind."""
        for half in (*self.kept, *self.factors):
            for x in half:
                for old, new in zip(source.pages, to.pages, strict=True):
                    x[new] = x[old]

    def _pick(self, kept: Tensor, pages: Tensor, run: int | None, use: int) -> Tensor:
        """kept[pages], in memory that is used again by the next layer."""
        if run is not None:
            return kept[run : run + pages.shape[1]]
        needed = pages.numel() * kept[0].numel()
        space = self._space.get(use)
        if space is None or space.numel() < needed:
            space = self._space[use] = torch.empty(needed, dtype=kept.dtype, device=self.device)
        out = space[:needed].view(pages.numel(), *kept.shape[1:])
        return torch.index_select(kept, 0, pages.flatten(), out=out)


class PagedLayer(LayerCache):
    """One layer of a `PagedCache`."""

    def __init__(self, owner: PagedCache, kind: str, page: int, sublayer: int) -> None:
        self.pages_of, self.kind, self.page, self.sublayer = owner, kind, page, sublayer

    def append(self, *new: Tensor) -> Pair:
        """Write the new (B, H, T, width) at each row's place; all in sight, (B, H, S, width)."""
        owner = self.pages_of
        places = owner.write_places(self.kind, self.page, new[0].shape[2])
        pages, run, cut, seen = owner.read_pages(self.kind, self.page, new[0].shape[2])
        halves = []
        for half, x in enumerate(new):
            owner.store.write(half, self.sublayer, places, x)
            kept = owner.store.read(half, self.sublayer, pages, run, x)
            halves.append(kept[:, cut : cut + seen].transpose(1, 2))
        first, second = halves
        return first, second


class PagedCache(KVCache):
    """The rows of one forward pass.

    Args:
        config: the model's.
        store: the memory.
        texts: the rows; they have blocks for the tokens that will count (`TextPages.room`). What
            is written behind them is padding and is lost.
        new: the most tokens that a row will get.
    """

    def __init__(
        self, config: ModelConfig, store: PagedStore, texts: Sequence[TextPages], new: int
    ) -> None:
        self.store, self.texts, self.layout = store, list(texts), store.layout
        self.device = store.device
        self.row_lengths = [text.length for text in texts]
        self.capacity = max(self.row_lengths) + new
        self.window = self.layout.window or None
        self.history = None
        if follows_length(config):
            # A cache of no memory: the history alone is wanted.
            history = KVCache(config, len(self.texts), self.capacity, "meta").history
            assert history is not None
            history.tables = [text.turned for text in texts]
            for row, text in enumerate(texts):
                held = torch.tensor(text.ids[: text.length], dtype=torch.int64)
                history.ids[row] = text.ids[0]  # padding is of the text's own, see `padded_ids`
                history.ids[row, : text.length] = held
            self.history = history
        self._tensor: Tensor | None = None
        self._last = config.context_length - 1 if config.position == "learned" else None
        self._made: dict[tuple[object, ...], object] = {}
        self.layers = [PagedLayer(self, *place) for place in self.layout.place]

    def positions(self, new: int) -> Tensor:
        """Places of the next `new` tokens of each row: (B, T) int64. Where positions are learned,
        those of padding are kept within them."""
        places = super().positions(new)
        return places if self._last is None else places.clamp(max=self._last)

    def key_places(self, new: int, local: bool = False) -> Tensor:
        """As of `KVCache`."""
        if not (local and self.window):
            return super().key_places(new)
        starts, seen = self._sight(LOCAL, new)
        return torch.tensor(starts, device=self.device)[:, None] + torch.arange(
            seen, device=self.device
        )

    def note(self, ids: Tensor) -> None:
        """The texts have their ids themselves."""

    def before(self) -> Pair:
        """As of `KVCache`."""
        last = [
            text.ids[max(0, length - 1)]  # of an empty row: not known, but the text's own
            for text, length in zip(self.texts, self.row_lengths, strict=True)
        ]
        return torch.tensor(last, device=self.device)[:, None], self.lengths[:, None] > 0

    def write_places(self, kind: str, page: int, new: int) -> Tensor:
        """Where the next `new` tokens of each row go: (B T,), counted in tokens."""
        key = ("write", kind, page, new)
        if key not in self._made:
            size, places = self.layout.block_tokens, []
            for text, length in zip(self.texts, self.row_lengths, strict=True):
                table = text.tables[kind]
                for place in range(length, length + new):
                    block = table[place // size] if place // size < len(table) else None
                    number = WASTE if block is None else block.pages[page]
                    places.append(number * size + place % size)
            self._made[key] = torch.tensor(places, device=self.device)
        return self._made[key]  # type: ignore[return-value]

    def read_pages(self, kind: str, page: int, new: int) -> tuple[Tensor, int | None, int, int]:
        """Pages (B, N) of the keys that `new` tokens see, the first if one row's follow one
        another, tokens to leave out at the beginning, tokens to see."""
        key = ("read", kind, page, new)
        if key not in self._made:
            size = self.layout.block_tokens
            starts, seen = self._sight(kind, new)
            cut = starts[0] % size  # 0 where the rows' starts differ
            count = self.layout.blocks(cut + seen)
            rows = []
            for text, start in zip(self.texts, starts, strict=True):
                blocks = text.tables[kind][start // size :][:count]
                row = [ZEROS if block is None else block.pages[page] for block in blocks]
                rows.append(row + [ZEROS] * (count - len(row)))
            first = rows[0]
            alone = len(rows) == 1 and first == list(range(first[0], first[0] + count))
            pages = torch.tensor(rows, device=self.device)
            self._made[key] = pages, first[0] if alone else None, cut, seen
        return self._made[key]  # type: ignore[return-value]

    def _sight(self, kind: str, new: int) -> tuple[list[int], int]:
        """The first place to read of each row, one number where all are alike, and how many."""
        starts = [self.layout.first_seen(kind, length) for length in self.row_lengths]
        if not self.even:  # whole blocks; the mask hides what is too old
            starts = [start - start % self.layout.block_tokens for start in starts]
        ends = [length + new for length in self.row_lengths]
        seen = max(end - start for start, end in zip(starts, ends, strict=True))
        return starts, seen

    def advance(self, counts: int | Sequence[int] | Tensor) -> None:
        """Count the tokens just written as held, in the texts too."""
        super().advance(counts)
        self._made.clear()
        for row, text in enumerate(self.texts):
            text.length = self.row_lengths[row]
            if self.history is not None:
                text.turned = self.history.tables[row]

    def select(self, rows: Sequence[int] | Tensor) -> None:
        """Keep these rows, in this order."""
        chosen = [int(row) for row in rows]
        self.texts = [self.texts[row] for row in chosen]
        self.row_lengths, self._tensor = [self.row_lengths[row] for row in chosen], None
        if self.history is not None:
            self.history.select(chosen)
        self._made.clear()

    def restart(self) -> list[int]:
        """Hold nothing; return how long the rows were."""
        self._made.clear()
        return super().restart()


def zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, as a place never written may be read under a mask, and 0 * NaN is NaN. On a CPU the
    system gives the memory only where something is written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)
    return torch.from_numpy(memory).view(dtype).view(shape)


def follows_length(config: ModelConfig) -> bool:
    """Whether the rotary angles of a text change as it grows (ntk, longrope)."""
    return depends_on_length(config.rotary_scaling)


def cached_shape(config: ModelConfig) -> tuple[int, tuple[int, int]]:
    """Heads, and widths of the two vectors, that a layer keeps of each token."""
    if config.latent:
        return 1, (config.latent.kv_rank, config.latent.rotary_width)
    return config.key_heads, (config.head_size, config.head_size)


def page_bytes(config: ModelConfig, layout: Layout, dtype: torch.dtype) -> int:
    """Bytes of one page."""
    heads, widths = cached_shape(config)
    each = sum(width * dtype.itemsize + (2 if dtype == torch.int8 else 0) for width in widths)
    return layout.sublayers * layout.block_tokens * heads * each


def quantise_rows(x: Tensor) -> Pair:
    """int8 values and fp16 factors of x (N, H, width), one factor per row and head: (N, H).

    x is about values * factor; the error is at most half a factor, i.e. 1/254 of the largest.
    """
    factor = (x.abs().amax(-1).float() / 127).to(torch.float16)  # (N, H)
    inverse = torch.where(factor > 0, 1 / factor.float(), 0.0)
    values = (x.float() * inverse[..., None]).round().clamp(-127, 127).to(torch.int8)
    return values, factor
