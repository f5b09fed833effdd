"""The decoding step compiled: a few blocks with static shapes, used for all layers.

Small models on few cores spend their time between operations, not in them. So the step of one new
token for each text is compiled, a few blocks once for all layers: rows and pages are padded to
powers of two, so that few shapes exist. What torch's compiler makes is kept on disk for the next
start. Prompts, and models with something that this path does not have, run as they are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from langwright.generate.forward import Hidden, plain_hidden
from langwright.generate.paged_cache import (
    GLOBAL,
    WASTE,
    ZEROS,
    PagedCache,
    PagedLayer,
    PagedStore,
    follows_length,
)
from langwright.model import Guide, LayerCache, Transformer, rotary_tables

LEAST_PAGES = 8  # smaller tables are padded to this
MOST_SHAPES = 64
TOGETHER = 5  # layers in one call: between calls torch checks and unpacks for some 50 us


class StaticLayer(LayerCache):
    """One layer's pages as tensors only: nothing for the compiler to guard but shapes.

    Args:
        kept: keys and values, each (pages, block_tokens, heads x width).
        places: (B,), where each row's token goes, counted in tokens.
        pages: (B, N), what each row sees; a mask hides what is not written.
    """

    def __init__(self, kept: tuple[Tensor, Tensor], places: Tensor, pages: Tensor) -> None:
        self.kept, self.places, self.table = kept, places, pages  # type: ignore[assignment]

    def append(self, *new: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new (B, H, 1, width); all pages (B, H, N block_tokens, width)."""
        first, second = (self._one(kept, x) for kept, x in zip(self.kept, new, strict=True))
        return first, second

    def _one(self, kept: Tensor, x: Tensor) -> Tensor:
        batch, heads, _, width = x.shape
        flat = x.transpose(1, 2).reshape(batch, heads * width).to(kept.dtype)
        kept.view(-1, heads * width).index_copy_(0, self.places, flat)
        found = kept.index_select(0, self.table.flatten())  # (B N, block_tokens, H width)
        return found.view(batch, -1, heads, width).transpose(1, 2).to(x.dtype)


def blocks_step(
    blocks: Sequence[nn.Module],
    x: Tensor,
    rotary: tuple[Tensor, Tensor] | None,
    mask: Tensor,
    kept: Sequence[tuple[Tensor, Tensor]],
    where: Sequence[tuple[Tensor, Tensor]],
) -> Tensor:
    """Some blocks on one new token of each row: x (B, 1, D) -> (B, 1, D)."""
    for block, one, (places, pages) in zip(blocks, kept, where, strict=True):
        x = block.forward(x, Guide(rotary, mask), StaticLayer(one, places, pages))
    return x


class CompiledHidden:
    """A `Hidden` whose steps of one token are compiled.

    Args:
        model: what runs; its `_follow` is what this must equal.
        store: whose pages are read and written.
        compile: False runs the same path uncompiled, for tests.
    """

    def __init__(self, model: Transformer, store: PagedStore, compile: bool = True) -> None:
        self.model, self.store = model, store
        self.plain: Hidden = plain_hidden(model)
        self.step = blocks_step
        self.shapes: set[tuple[int, int]] = set()
        if compile:
            keep_on_disk()
            torch._dynamo.config.recompile_limit = max(
                MOST_SHAPES, torch._dynamo.config.recompile_limit
            )
            self.step = torch.compile(
                blocks_step, dynamic=False, options={"guard_filter_fn": _keep_guards}
            )

    def __call__(self, ids: Tensor, cache: PagedCache, counts: Tensor) -> Tensor:
        """ids (B, T), the cache, counts (B,) -> vectors (B, T, D)."""
        if ids.shape[1] != 1:
            return self.plain(ids, cache, counts)
        rows, pages = padded(ids.shape[0]), padded(self._most_pages(cache), LEAST_PAGES)
        if (rows, pages) not in self.shapes and len(self.shapes) >= MOST_SHAPES:
            return self.plain(ids, cache, counts)
        self.shapes.add((rows, pages))
        return self._one_token(ids, cache, rows, pages)[: ids.shape[0]]

    def _most_pages(self, cache: PagedCache) -> int:
        return cache.layout.blocks(max(cache.row_lengths) + 1)

    def _one_token(self, ids: Tensor, cache: PagedCache, rows: int, count: int) -> Tensor:
        """(rows, 1, D); rows behind the cache's own read zeros and write where nobody reads."""
        model = self.model
        x = model.embed(ids, cache.positions(1))
        x = grow(x, rows)
        config = model.config
        rotary = None
        if config.turns(0) and config.rotary_width:
            tables = rotary_tables(
                cache.positions(1),
                config.rotary_width,
                config.rotary_base,
                config.rotary_scaling,
                config.context_length,
            )
            cos, sin = (grow(table.to(model.compute_dtype), rows) for table in tables)
            rotary = cos, sin
        size = cache.layout.block_tokens
        seen = torch.arange(count * size, device=ids.device) <= cache.lengths[:, None]  # (B, S)
        mask = grow(seen, rows, True)[:, None, None]  # (rows, 1, 1, S)
        kept: list[tuple[Tensor, Tensor]] = []  # of each layer
        places: list[tuple[Tensor, Tensor]] = []
        where: dict[int, tuple[Tensor, Tensor]] = {}
        for layer in cache.layers:
            assert isinstance(layer, PagedLayer)
            page = layer.page
            if page not in where:
                written = grow(cache.write_places(GLOBAL, page, 1), rows, WASTE * size)
                where[page] = written, self._table(cache, page, rows, count)
            first, second = (half[layer.sublayer] for half in self.store.kept)
            kept.append((first, second))
            places.append(where[page])
        blocks = tuple(model.blocks)
        for start in range(0, len(blocks), TOGETHER):
            some = slice(start, start + TOGETHER)
            x = self.step(blocks[some], x, rotary, mask, tuple(kept[some]), tuple(places[some]))
        return x if model.norm is None else model.norm(x)

    def _table(self, cache: PagedCache, page: int, rows: int, count: int) -> Tensor:
        """(rows, count) page numbers."""
        table = torch.full((rows, count), ZEROS)
        for row, text in enumerate(cache.texts):
            blocks = text.tables[GLOBAL][:count]
            table[row, : len(blocks)] = torch.tensor(
                [ZEROS if block is None else block.pages[page] for block in blocks]
            )
        return table.to(cache.device)


def compilable(model: Transformer, store: PagedStore) -> str | None:
    """None if the compiled step can run this model; else why not."""
    config = model.config
    if set(store.layout.block_pages) != {GLOBAL} or config.window:
        return "some layers see a window"
    if config.latent or config.experts:
        return "latent attention or experts"
    if config.position in ("alibi", "relative"):
        return f"{config.position} positions"
    if not all(config.turns(i) == config.turns(0) for i in range(config.layers)):
        return "layers differ in their angles"
    if store.dtype == torch.int8:
        return "an 8-bit cache"
    if follows_length(config):
        return "angles follow the text's length"
    if config.unexported:
        return ", ".join(config.unexported)
    return None


def fast_hidden(model: Transformer, store: PagedStore) -> Hidden:
    """The compiled step where the model has one, else the model as it is."""
    if compilable(model, store) is not None:
        return plain_hidden(model)
    return CompiledHidden(model, store)


def _keep_guards(guards: Sequence[Any]) -> list[bool]:
    """Shapes are checked at each call; blocks are not: all are alike (`compilable`), nobody
    changes them, and looking at each of their parts takes as long as a small layer itself."""
    return [guard.name.removeprefix("L['").partition("'")[0] != "blocks" for guard in guards]


def padded(count: int, least: int = 1) -> int:
    """The power of two that is at least `count` and `least`."""
    return 1 << (max(count, least) - 1).bit_length()


def grow(x: Tensor, rows: int, value: float | bool = 0) -> Tensor:
    """x (B, ...) with rows of `value` behind: (rows, ...)."""
    missing = rows - x.shape[0]
    if not missing:
        return x
    return torch.cat((x, x.new_full((missing, *x.shape[1:]), value)))


def keep_on_disk() -> Path:
    """Where compiled code is kept: a folder of this user alone, for it is run as it is found."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "langwright" / f"compiled-torch-{torch.__version__}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    return folder
