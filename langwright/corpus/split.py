"""Which text is trained on and which is held out.

Three forms, all decided by the seed and the text alone:

- by group: the Python sources, where all of a module's text stays together;
- by document: a group of one; documents of equal content are one group;
- by position: the end of each document, where there are too few documents (fact B10: the first
  90 % of the characters are for training).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langwright.base import seed_for

SPLITS = ("train", "valid", "test")
_TOLERANCE = 1.1  # a group may fill a share up to this much over


@dataclass(frozen=True)
class Part:
    """Characters ``start`` to ``end`` of a document, and the split they go to."""

    split: str
    start: int
    end: int


def split_groups(
    sizes: Mapping[str, Mapping[str, int]], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Give each group to a split, so that every stratum gets about its share.

    Args:
        sizes: for each group its bytes in each stratum (a source, or a kind within it).
        shares: ``{"valid": 0.05, "test": 0.05}``; the rest is for training.
        seed: another seed holds out other groups.

    Groups are visited in an order drawn from the seed and their names; one is held out if that
    fills no stratum beyond its share. Large groups thus stay in training.
    """
    totals: dict[str, int] = {}
    for strata in sizes.values():
        for stratum, size in strata.items():
            totals[stratum] = totals.get(stratum, 0) + size
    order = sorted(sizes, key=lambda group: (seed_for(seed, "split", group), group))
    chosen: dict[str, str] = {}
    for split, share in shares.items():
        if share <= 0:
            continue
        room = {stratum: total * share * _TOLERANCE for stratum, total in totals.items()}
        enough = {stratum: total * share * (_TOLERANCE - 1) for stratum, total in totals.items()}
        for group in order:
            strata = sizes[group]
            full = all(room[stratum] <= enough[stratum] for stratum in strata)
            if group in chosen or full:
                continue
            if all(size <= room[stratum] for stratum, size in strata.items()):
                chosen[group] = split
                for stratum, size in strata.items():
                    room[stratum] -= size
    _leave_none_empty(chosen, sizes, shares, order)
    return {group: chosen.get(group, "train") for group in sizes}


def enough_documents(count: int, shares: Mapping[str, float]) -> bool:
    """Whether whole documents can be held out: at least one for the smallest share."""
    positive = [share for share in shares.values() if share > 0]
    return not positive or count * min(positive) >= 1


def split_positions(lengths: Sequence[int], shares: Mapping[str, float]) -> list[list[Part]]:
    """Cut a text that comes in pieces: its beginning for training, then valid, then test.

    Args:
        lengths: characters of each piece, in order.
        shares: of the held-out splits.

    Returns:
        for each piece its parts, none of them empty.
    """
    total = sum(lengths)
    held_out = sum(shares.get(split, 0.0) for split in SPLITS[1:])
    # 1e-9: 1 - 0.05 - 0.05 is a little less than 0.9 in floating point.
    ends = [math.floor(total * (1 - held_out + 1e-9))]
    ends.append(math.floor(total * (1 - shares.get("test", 0.0) + 1e-9)))
    ends.append(total)
    parts: list[list[Part]] = []
    begin = 0
    for length in lengths:
        here, start = [], 0
        for split, end in zip(SPLITS, ends, strict=True):
            stop = min(max(end - begin, start), length)
            if stop > start:
                here.append(Part(split, start, stop))
                start = stop
        parts.append(here)
        begin += length
    return parts


def _leave_none_empty(
    chosen: dict[str, str],
    sizes: Mapping[str, Mapping[str, int]],
    shares: Mapping[str, float],
    order: Sequence[str],
) -> None:
    """Where only large groups were left, a held-out split takes the smallest of them."""
    for split, share in shares.items():
        free = [group for group in order if group not in chosen]
        if share > 0 and split not in chosen.values() and len(free) > 1:
            chosen[min(free, key=lambda group: sum(sizes[group].values()))] = split
