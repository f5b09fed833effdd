"""Long lines, as the mark by which copied text is known again.

A line of 40 characters or more hardly stands in two texts by chance. White space at its ends is
taken away, so a docstring's line is the same line in the source file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

LONG = 40  # characters
_COMMON = 5  # a line that stands in more groups than this is boilerplate (a licence), no copy


def long_lines(text: str) -> Iterator[str]:
    """The stripped lines of at least `LONG` characters."""
    for line in text.split("\n"):
        line = line.strip()
        if len(line) >= LONG:
            yield line


def merge_groups(texts: Iterable[tuple[str, str]], share: float = 0.1) -> Mapping[str, str]:
    """Join groups of which one repeats much of the other.

    Args:
        texts: pairs of a group's name and one of its texts.
        share: joined when this share of the smaller group's long lines stands in the other.

    Returns:
        for each group the name of the joined group it belongs to.
    """
    groups_of: dict[int, set[str]] = {}
    lines_in: Counter[str] = Counter()
    parent: dict[str, str] = {}
    for group, text in texts:
        parent.setdefault(group, group)
        for line in set(long_lines(text)):
            owners = groups_of.setdefault(hash(line), set())
            if group not in owners:
                owners.add(group)
                lines_in[group] += 1
    shared: Counter[tuple[str, str]] = Counter()
    for owners in groups_of.values():
        if 1 < len(owners) <= _COMMON:
            ordered = sorted(owners)
            shared.update(
                (one, other) for i, one in enumerate(ordered) for other in ordered[i + 1 :]
            )

    def root(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    for one, other in sorted(shared):
        if shared[one, other] >= share * min(lines_in[one], lines_in[other]):
            low, high = sorted((root(one), root(other)))
            parent[high] = low
    return {group: root(group) for group in parent}
