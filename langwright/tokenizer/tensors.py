"""Text to tensors and back, begin and end marks, padding."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from langwright.base import UserError
from langwright.tokenizer.base import Tokenizer


def text_to_ids(tokenizer: Tokenizer, text: str) -> torch.Tensor:
    """`text` as a batch of one row, int64 (1, T). The document separator is allowed in it."""
    eos = tokenizer.specials.eos
    ids = tokenizer.encode(text, allowed_special=() if eos is None else (eos,))
    return torch.tensor([ids], dtype=torch.int64)


def ids_to_text(tokenizer: Tokenizer, ids: torch.Tensor) -> str:
    """The text of one row of ids, (1, T) or (T,)."""
    if ids.dim() == 2 and ids.shape[0] == 1:
        ids = ids[0]
    if ids.dim() != 1:
        raise UserError("one row of ids is needed", found=f"shape {tuple(ids.shape)}")
    return tokenizer.decode(ids.tolist())


def add_marks(
    tokenizer: Tokenizer, ids: Sequence[int], *, bos: bool = False, eos: bool = False
) -> list[int]:
    """`ids` with the marks for the beginning and the end of a document, where asked for."""
    marks: list[list[int]] = []
    for wanted, name, mark in ((bos, "bos", tokenizer.bos_id), (eos, "eos", tokenizer.eos_id)):
        if wanted and mark is None:
            raise UserError(
                f"this tokenizer has no {name} token",
                found="special tokens " + (", ".join(tokenizer.special_tokens) or "none"),
                fix=f"train it with {name}_token set",
            )
        marks.append([mark] if wanted and mark is not None else [])
    return marks[0] + list(ids) + marks[1]


def pad_rows(
    tokenizer: Tokenizer, rows: Sequence[Sequence[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of different lengths as one batch, filled up on the right.

    Filled with the padding mark or, where there is none, with the document separator: as nothing
    attends to padding, its id does not matter.

    Returns:
        ids int64 (B, T) with T the longest length; mask bool (B, T), False on padding.
    """
    fill = tokenizer.pad_id if tokenizer.pad_id is not None else tokenizer.eos_id
    longest = max(map(len, rows), default=0)
    if fill is None:
        if any(len(row) != longest for row in rows):
            raise UserError("this tokenizer has neither a pad nor an eos token to fill rows with")
        fill = 0
    ids = torch.full((len(rows), longest), fill, dtype=torch.int64)
    mask = torch.zeros((len(rows), longest), dtype=torch.bool)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[index, : len(row)] = True
    return ids, mask
