"""The decoding step with static shapes: compiled, a few blocks for all layers; on CUDA recorded.

Small models on few cores spend their time between operations, not in them. So the step of one new
token for each text is compiled, a few blocks once for all layers: rows and pages are padded to few
numbers, so that few shapes exist. (One code with the number of pages left open would be made
sooner, but decodes some 5 to 10 % slower.) What torch's compiler makes is kept on disk for the next
start. On CUDA the whole step of each shape becomes one graph, see graphs.py. Prompts, and models
with something that this path does not have, run as they are.
"""

from __future__ import annotations

import functools
import itertools
import os
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from langwright.base import UserError
from langwright.generate.engine_config import EngineConfig
from langwright.generate.forward import Hidden, plain_hidden
from langwright.generate.graphs import CudaRecorder, Record, StepGraphs
from langwright.generate.paged_cache import (
    GLOBAL,
    WASTE,
    ZEROS,
    PagedCache,
    PagedStore,
    follows_length,
)
from langwright.generate.stats import EngineStats
from langwright.model import Guide, LayerCache, Transformer, prepare_compiler, rotary_tables

LEAST_PAGES = 8  # smaller tables are padded to this
MOST_SHAPES = 64
# What can differ from one call of the compiled step to the next; "" are torch's own modes.
GUARDED = frozenset(
    ("", "blocks", "x", "rotary", "rotary[0]", "rotary[1]", "positions", "kept", "places", "pages")
)
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
    positions: Tensor,
    kept: Sequence[tuple[Tensor, Tensor]],
    places: Tensor,
    pages: Tensor,
) -> Tensor:
    """Some blocks on one new token of each row, at positions (B, 1): x (B, 1, D) -> (B, 1, D)."""
    seen = torch.arange(pages.shape[1] * kept[0][0].shape[1], device=x.device)  # (S,)
    mask = (seen <= positions)[:, None, None]  # (B, 1, 1, S)
    for block, one in zip(blocks, kept, strict=True):
        x = block.forward(x, Guide(rotary, mask), StaticLayer(one, places, pages))
    return x


def form_of(blocks: Sequence[nn.Module]) -> tuple[object, ...]:
    """All that code compiled for some blocks relies on, beside the numbers in their tensors: the
    files that models come from may keep each layer in a kernel and in groups of its own, and layers
    may share tensors."""
    plain = (bool, int, float, str, type(None), torch.dtype)
    parts: list[object] = []
    numbers: dict[int, int] = {}  # of the tensors, in the order of their first use
    for block in blocks:
        for name, module in block.named_modules(remove_duplicate=False):
            fields = [
                (key, value) for key, value in vars(module).items() if isinstance(value, plain)
            ]
            parts.append((name, type(module), tuple(fields)))
        tensors = itertools.chain(
            block.named_parameters(remove_duplicate=False),
            block.named_buffers(remove_duplicate=False),
        )
        for name, x in tensors:
            number = numbers.setdefault(id(x), len(numbers))
            parts.append((name, number, x.shape, x.stride(), x.dtype, x.device))
    return tuple(parts)


class CompiledHidden:
    """A `Hidden` whose steps of one token have static shapes.

    Args:
        model: what runs; its `_follow` is what this must equal.
        store: whose pages are read and written.
        compile: False runs the same path uncompiled.
        recorder: records the steps, see `StepGraphs`; None: they are not recorded.
        exact: recorded steps must give the same bits.
        stats: is told what was chosen.
    """

    def __init__(
        self,
        model: Transformer,
        store: PagedStore,
        compile: bool = True,
        recorder: Callable[[], Record] | None = None,
        exact: bool = False,
        stats: EngineStats | None = None,
    ) -> None:
        self.model, self.store, self.stats = model, store, stats
        self.plain: Hidden = plain_hidden(model)
        self.steps: dict[object, Callable[..., Tensor]] = {}  # by the form of their blocks
        self.compiled = compile
        self.shapes: set[tuple[int, int]] = set()  # that have come: rows, pages
        self.told = "static shapes, compiled" if compile else "static shapes"
        self.halves = recorder is None  # a graph holds memory; code only has to be made once
        self.graphs: StepGraphs | None = None
        if recorder is not None:
            watched = [*model.parameters(), *model.buffers(), *store.kept[0], *store.kept[1]]
            self.graphs = StepGraphs(self.one_token, watched, store.device, recorder, exact)
        self.renew()
        self._tell()

    def renew(self) -> None:
        """Look at the blocks again: their weights may be others now."""
        blocks = self.model.blocks
        self.parts: list[tuple[slice, Callable[..., Tensor]]] = []  # which blocks, and their step
        for start in range(0, len(blocks), TOGETHER):
            some = slice(start, start + TOGETHER)
            form = form_of(list(blocks[some]))
            if form not in self.steps:
                self.steps[form] = self._compiled_step() if self.compiled else blocks_step
            self.parts.append((some, self.steps[form]))

    def __call__(self, ids: Tensor, cache: PagedCache, counts: Tensor) -> Tensor:
        """ids (B, T), the cache, counts (B,) -> vectors (B, T, D)."""
        if ids.shape[1] != 1:
            return self.plain(ids, cache, counts)
        longest = cache.layout.blocks(max(cache.row_lengths) + 1)
        rows, pages = padded(ids.shape[0]), padded(longest, LEAST_PAGES, self.halves)
        new = (rows, pages) not in self.shapes
        if new and len(self.shapes) >= MOST_SHAPES:
            return self.plain(ids, cache, counts)
        if new and self.compiled:
            prepare_compiler(MOST_SHAPES)
        run = self.one_token if self.graphs is None else self.graphs
        vectors = run(grow(ids, rows), numbers_of(cache, rows, pages))
        if new:
            self.shapes.add((rows, pages))
            self._tell()
        return vectors[: ids.shape[0]]

    def one_token(self, ids: Tensor, numbers: Tensor) -> Tensor:
        """The step: ids (B, 1) and their `numbers_of` -> vectors (B, 1, D)."""
        model, config, rows = self.model, self.model.config, ids.shape[0]
        numbers = numbers.to(ids.device)
        table, places, lengths = numbers.split((len(numbers) - 2 * rows, rows, rows))
        table, positions = table.view(rows, -1), lengths[:, None]  # (B, N), (B, 1)
        x = model.embed(ids, positions)
        rotary = None
        if config.turns(0) and config.rotary_width:
            cos, sin = rotary_tables(
                positions,
                config.rotary_width,
                config.rotary_base,
                config.rotary_scaling,
                config.context_length,
            )
            rotary = cos.to(model.compute_dtype), sin.to(model.compute_dtype)
        blocks = tuple(model.blocks)
        # Of each layer: where there is one kind of layers, a page holds them all.
        kept = tuple(zip(*self.store.kept, strict=True))
        for some, step in self.parts:
            x = step(blocks[some], x, rotary, positions, kept[some], places, table)
        return x if model.norm is None else model.norm(x)

    def _compiled_step(self) -> Callable[..., Tensor]:
        keep_on_disk()
        # On a CPU the calls between kernels, some 25 a layer, are written in C++ too.
        on_cpu = self.store.device.type == "cpu"
        return torch.compile(
            _own_code(blocks_step),
            dynamic=False,
            options={"guard_filter_fn": _keep_guards, "cpp_wrapper": on_cpu},
        )

    def _tell(self) -> None:
        """Write down how the steps run, as far as is known."""
        if self.stats is None:
            return
        self.stats.decoding = self.told
        if self.graphs is not None:
            yes, all_ = self.graphs.captured, len(self.graphs.shapes)
            left_out = f", {all_ - yes} not" if all_ > yes else ""
            self.stats.decoding += f"; CUDA graphs: {yes} shapes captured{left_out}"


def numbers_of(cache: PagedCache, rows: int, pages: int) -> Tensor:
    """What the step of one token must know of its texts, in one int64 tensor on the CPU, which is
    one copy to a device: the pages that each row sees (rows x pages), where its token goes (rows,
    counted in tokens), how many it holds (rows).

    Rows behind the cache's own are texts of no token: they read zeros and write where nobody reads.
    """
    size = cache.layout.block_tokens
    table = [[ZEROS] * pages for _ in range(rows)]
    places, lengths = [WASTE * size] * rows, [0] * rows
    for row, (text, length) in enumerate(zip(cache.texts, cache.row_lengths, strict=True)):
        blocks = text.tables[GLOBAL][:pages]
        table[row][: len(blocks)] = [ZEROS if one is None else one.pages[0] for one in blocks]
        page = table[row][length // size]
        places[row] = (WASTE if page == ZEROS else page) * size + length % size
        lengths[row] = length
    return torch.tensor([*itertools.chain.from_iterable(table), *places, *lengths])


def compilable(model: Transformer, store: PagedStore) -> str | None:
    """None if the step with static shapes can run this model; else why not."""
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


def fast_hidden(
    model: Transformer, store: PagedStore, config: EngineConfig, stats: EngineStats
) -> Hidden:
    """The step as `config` asks for it where the model has such a one, else the model as it is.
    `stats.decoding` tells which."""
    graphs = config.cuda_graphs and store.device.type == "cuda"
    if not (config.compile or graphs):
        return plain_hidden(model)
    if (why := compilable(model, store)) is not None:
        stats.decoding += f": {why}"
        return plain_hidden(model)
    if config.compile and store.device.type == "cpu":
        need_cpp_compiler()
    recorder = functools.partial(CudaRecorder, store.device) if graphs else None
    return CompiledHidden(model, store, config.compile, recorder, config.deterministic, stats)


def need_cpp_compiler() -> None:
    """Raises `UserError` where torch finds none: not first when a text is being written."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # torch's own kinds differ from version to version
        raise UserError(
            "the decoding step cannot be compiled",
            where="compile",
            found="no C++ compiler that works",
            expected="g++ or clang++ on the PATH, or its name in CXX",
            fix="install one, or leave compile = false",
        ) from error


def _keep_guards(guards: Sequence[Any]) -> list[bool]:
    """What can differ from call to call is checked at each: the tensors given, how many blocks
    there are, torch's own modes. What the blocks, their memory and our functions are like is not:
    a step is given blocks of one form only, nobody changes them, and looking at each of their
    parts takes as long as a small layer itself."""
    return [guard.name in GUARDED for guard in guards]


def _own_code(function: Any) -> Any:
    """The same function once more. The compiler keeps what it made with a function's code and finds
    it by the guards, which say nothing of the blocks: another model must not find it."""
    code = function.__code__.replace()
    return types.FunctionType(code, function.__globals__, function.__name__)


def padded(count: int, least: int = 1, halves: bool = False) -> int:
    """The power of two that is at least `count` and `least`; with `halves` those between are taken
    too (8, 12, 16, 24 ...): attention reads a sixth of its keys in vain, not a third."""
    power = 1 << (max(count, least) - 1).bit_length()
    between = power * 3 // 4
    return between if halves and between >= max(count, least) else power


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
