"""How much memory keys and values get, and the pages made of it."""

from __future__ import annotations

import torch

from langwright.base import UserError, machine
from langwright.generate.blocks import BlockPool
from langwright.generate.engine_config import EngineConfig
from langwright.generate.paged_cache import RESERVED, Layout, PagedStore, page_bytes
from langwright.model import Transformer

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
}


def build_store(model: Transformer, config: EngineConfig) -> tuple[PagedStore, BlockPool]:
    """The memory for keys and values, and who hands it out."""
    context = model.config.context_length
    layout = Layout.of(model.config, config.block_tokens)
    dtype = DTYPES.get(config.cache_dtype, model.compute_dtype)
    each = page_bytes(model.config, layout, dtype)
    text = layout.blocks(context) * sum(layout.block_pages.values())
    budget = config.cache_bytes
    if budget is None:
        budget = min(config.max_running * text * each, free_bytes(model.device) // 2)
    pages = min(budget // each - RESERVED, config.max_running * text)
    if config.cache_bytes is not None:
        pages = budget // each - RESERVED
    least = 2 * sum(layout.block_pages.values())
    if pages < least:
        raise UserError(
            "too little memory for keys and values",
            where="cache_bytes",
            found=budget,
            expected=f"at least {(least + RESERVED) * each} bytes",
            fix="give it more, or keep them as int8 (cache_dtype)",
        )
    return PagedStore(model.config, layout, pages, model.device, dtype), BlockPool(pages, RESERVED)


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device now, or on a CPU that this process may still use."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    total = machine().memory_bytes
    if device.type != "cpu":
        return (machine().device_memory_bytes or total) // 2
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = next(line for line in lines if line.startswith("MemAvailable:"))
        return min(total, int(found.split()[1]) * 1024)
    except (OSError, StopIteration):  # not Linux: nothing says it without another library
        return total // 2
