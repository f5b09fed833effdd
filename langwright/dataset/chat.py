"""Rows of conversations, with the loss on the assistant's tokens only."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Literal, Protocol

import numpy as np

from langwright.base import UserError
from langwright.dataset.packed import PieceRows
from langwright.dataset.packing import Pieces
from langwright.dataset.tokens import TokenArray


class ChatTokens(Protocol):
    """A conversation as ids: `mask` is True on the tokens that the assistant says."""

    @property
    def ids(self) -> list[int]: ...
    @property
    def mask(self) -> list[bool]: ...


class ChatRows(PieceRows):
    """Conversations, several packed into a row (kept apart by segments) or one a row, padded.

    A token counts as a target where its mask is True; the token that ends the assistant's turn is
    masked True by the tokenizer, so the model learns to stop. No row is without a counted target.

    Args:
        conversations: from `Tokenizer.encode_chat`.
        sequence_length: T, the inputs in a row.
        seed, shuffle: the order of each pass.
        pack: several conversations a row; False: one a row.
        long: a conversation of more than T+1 tokens loses its beginning ("cut"), or is left out
            ("skip").

    Attributes:
        report: how many conversations were given, used, cut, skipped as too long, and skipped
            because no target of theirs counts.
    """

    def __init__(
        self,
        conversations: Iterable[ChatTokens],
        sequence_length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        pack: bool = True,
        long: Literal["cut", "skip"] = "cut",
    ) -> None:
        self.report = dict.fromkeys(
            ("conversations", "used", "cut", "skipped_long", "skipped_without_target"), 0
        )
        ids: list[np.ndarray] = []
        masks: list[np.ndarray] = []
        for conversation in conversations:
            self.report["conversations"] += 1
            kept = self._admit(conversation, sequence_length + 1, long)
            if kept is not None:
                ids.append(kept[0])
                masks.append(kept[1])
        if not ids:
            raise UserError(
                "no conversation can be used for training",
                found=", ".join(f"{name} {count}" for name, count in self.report.items()),
                expected="conversations with an assistant's message that fits a row",
                fix="check the data, or use a larger sequence_length",
            )
        lengths = np.array([len(one) for one in ids], dtype=np.int64)
        starts = np.cumsum(lengths) - lengths
        none = np.zeros(len(ids), dtype=np.int64)
        mask = np.concatenate(masks)
        super().__init__(
            TokenArray(np.concatenate(ids)),
            Pieces(starts + 1, lengths - 1, none, none.astype(bool)),
            sequence_length,
            head=None,
            seed=seed,
            shuffle=shuffle,
            pack=pack,
            masks=pack,
            counted=mask,
            identity=hashlib.sha256(lengths.tobytes() + mask.tobytes()).hexdigest(),
        )

    def _admit(
        self, conversation: Any, most: int, long: str
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Ids (int32) and mask of a conversation that can be used, cut to `most` tokens."""
        ids = np.asarray(conversation.ids, dtype=np.int32)
        mask = np.asarray(conversation.mask, dtype=bool)
        if ids.shape != mask.shape:
            raise ValueError(f"{len(ids)} ids but {len(mask)} mask values")
        too_long = len(ids) > most
        if too_long and long == "skip":
            self.report["skipped_long"] += 1
            return None
        ids, mask = ids[-most:], mask[-most:]
        if not mask[1:].any():
            self.report["skipped_without_target"] += 1
            return None
        self.report["cut"] += too_long
        self.report["used"] += 1
        return ids, mask
