"""Sequences of token ids that never come, and end tokens that may not come yet."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def banned_next(ids: Sequence[int], banned: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that would complete a banned sequence after `ids`.

    Args:
        ids: the tokens of the answer so far.
        banned: sequences of at least one id.
    """
    found = []
    for sequence in banned:
        *begin, last = sequence
        if not begin or list(ids[-len(begin) :]) == begin:
            found.append(last)
    return found


def early_ends(drawn: int, min_tokens: int, stop_ids: Collection[int]) -> Collection[int]:
    """The end tokens, as long as fewer than `min_tokens` tokens are drawn."""
    return stop_ids if drawn < min_tokens else ()
