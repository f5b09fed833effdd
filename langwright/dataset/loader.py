"""The same rows for code written around torch's Dataset and DataLoader."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from langwright.dataset.rows import Rows
from langwright.dataset.windows import WindowRows


class RowsDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One pass over rows as a torch `Dataset`: item i is (inputs, targets), int64 (T,) each.

    Rows shuffle themselves by (seed, epoch): call `set_epoch` before each pass, or it repeats
    the order of the one before. Rows with masks give (inputs, targets, segments, positions).
    """

    def __init__(self, rows: Rows, epoch: int = 0) -> None:
        if rows.epoch_rows is None:
            raise ValueError("these rows have no last one: read them with Prefetcher instead")
        self.rows, self.epoch = rows, epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose which pass the items come from (0 is the first)."""
        self.epoch = epoch

    def __len__(self) -> int:
        assert self.rows.epoch_rows is not None
        return self.rows.epoch_rows

    def __getitem__(self, item: int) -> Any:
        if not 0 <= item < len(self):
            raise IndexError(f"row {item} of {len(self)}")
        arrays = self.rows.row(self.epoch * len(self) + item)
        return tuple(torch.from_numpy(np.ascontiguousarray(array)) for array in arrays.values())


def row_loader(
    rows: Rows,
    batch_size: int,
    *,
    shuffle: bool = False,
    drop_last: bool = False,
    num_workers: int = 0,
    pin_memory: bool = False,
    seed: int | None = None,
) -> DataLoader[Any]:
    """A torch `DataLoader` over one pass of `rows`.

    Args:
        rows: any kind.
        batch_size: rows in a batch. Small ones need less memory but make noisier updates.
        shuffle: let the loader shuffle (on top of the rows' own order); each pass differs.
        drop_last: leave out a short final batch, which would weigh its rows more than others.
        num_workers: background processes; 0: none. About 4 help with large data; for small data
            and in notebooks they cost more than they give.
        pin_memory: page-locked batches, for copies to a GPU.
        seed: seed of the loader's shuffling; None: torch's global generator.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return DataLoader(
        RowsDataset(rows),
        batch_size=batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        num_workers=num_workers,
        pin_memory=pin_memory,
        generator=generator,
    )


def book_loader(
    text: str,
    tokenizer: Any,
    batch_size: int = 4,
    max_length: int = 256,
    stride: int = 128,
    shuffle: bool = True,
    drop_last: bool = True,
    num_workers: int = 0,
    *,
    pin_memory: bool = False,
    seed: int | None = None,
) -> DataLoader[Any]:
    """Batches of sliding windows over one text, as in "Build a Large Language Model" (2.6).

    Gives (inputs, targets), int64 (batch_size, max_length) each, of ceil((n - max_length) /
    stride) windows. <|endoftext|> in the text becomes the separator token: this is training text.

    Args:
        text: the whole text.
        tokenizer: ours, or one of tiktoken's.
        max_length: T, ids in a window; use 256 or more for real training.
        stride: ids between window starts; max_length gives no overlap, less overfits sooner.
        others: see `row_loader`; without a `seed`, ``torch.manual_seed`` decides the order.
    """
    special = getattr(tokenizer, "special_tokens", {"<|endoftext|>": 0})
    allowed = {"<|endoftext|>"} & set(special)
    ids = np.array(tokenizer.encode(text, allowed_special=allowed), dtype=np.int64)
    rows = WindowRows(ids, max_length, stride=stride, shuffle=False)
    return row_loader(
        rows,
        batch_size,
        shuffle=shuffle,
        drop_last=drop_last,
        num_workers=num_workers,
        pin_memory=pin_memory,
        seed=seed,
    )
