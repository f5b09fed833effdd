"""Who may see whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCK = 128  # queries and keys of one block of FlexAttention


def causal_mask(
    t: int, s: int, device: torch.device | str = "cpu", window: int | None = None
) -> Tensor:
    """(T, S) bool: the last T of S tokens may see themselves and everything before, or the last
    `window` tokens, the own included."""
    mask = torch.ones(t, s, dtype=torch.bool, device=device).tril(s - t)
    return mask if window is None else mask.triu(s - t - window + 1)


def document_mask(segments: Tensor, first: int = 0) -> Tensor:
    """Several documents in one row must not see one another: (B, S) -> (B, 1, T, S) bool, for the
    T = S - first queries from `first` on.

    `segments` numbers each token's document within its row. Padding (-1) sees earlier padding, so
    that no row of the softmax is empty.
    """
    same = segments[:, first:, None] == segments[:, None, :]  # (B, T, S)
    return (same & causal_mask(same.shape[1], same.shape[2], segments.device))[:, None]


def block_mask(
    t: int, s: int, window: int | None, segments: Tensor | None, device: torch.device
) -> BlockMask:
    """FlexAttention's mask of the last T of S tokens: causal, within the window, within a document
    (segments (B, S), numbered in any way).

    That of torch's `create_block_mask`, which looks at all T x S pairs; here the edges of a block
    of 128 x 128 tell whether it is empty, whole or mixed, and nothing greater than (B, T / 128,
    S / 128) stands. Nothing is asked of the device, so nothing waits for it.
    """
    from torch.nn.attention.flex_attention import BlockMask

    def seen(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        query = query + (s - t)
        allowed = query >= key
        if window is not None:
            allowed = allowed & (query - key < window)
        if segments is not None:
            allowed = allowed & (segments[row, query] == segments[row, key])
        return allowed

    some, whole = _blocks(t, s, window, segments, device)
    return BlockMask.from_kv_blocks(
        *_listed(some & ~whole),
        *_listed(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=seen,
        seq_lengths=(t, s),
    )


def _blocks(
    t: int, s: int, window: int | None, segments: Tensor | None, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Blocks in which some query sees some key, and those in which each sees all: bool
    (1 or B, 1, T / 128, S / 128), rounded up. A block that reaches beyond the row is not whole."""
    q0 = torch.arange(s - t, s, BLOCK, device=device)  # first query of each block
    k0 = torch.arange(0, s, BLOCK, device=device)
    q1, k1 = ((x + BLOCK - 1).clamp(max=s - 1) for x in (q0, k0))  # last one
    first, last = q0[:, None], q1[:, None]
    some = k0 <= last
    whole = (k1 <= first) & (last - first == BLOCK - 1)
    if window is not None:
        some = some & (first - k1 < window)
        whole = whole & (last - k0 < window)
    some, whole = some[None], whole[None]
    if segments is not None:
        # Runs are numbered upwards: key and a later query are of one run if the key's number is not
        # less, and of all pairs in a block the last key and the first query stand closest.
        change = (segments[:, 1:] != segments[:, :-1]).long()
        run = torch.nn.functional.pad(change.cumsum(1), (1, 0))  # (B, S)
        ordered = segments.sort(1).values
        documents = (ordered[:, 1:] != ordered[:, :-1]).sum(1)  # (B,), less one
        # Of a document that comes back every earlier block may hold a part.
        parted = (documents < run[:, -1])[:, None, None]
        some = some & (parted | (run[:, None, k1] >= run[:, q0, None]))
        whole = whole & (run[:, None, k0] >= run[:, q1, None])
    return some[:, None], whole[:, None]


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys are chosen for each block of queries, int32 (B, 1, Tq), and which,
    these first: int32 (B, 1, Tq, Sk)."""
    order = chosen.int().argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(-1, dtype=torch.int32), order.int()
