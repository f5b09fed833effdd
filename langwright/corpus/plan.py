"""The plan of a corpus: which part of which document goes to which split."""

from __future__ import annotations

from collections import Counter

from langwright.corpus.config import CorpusConfig
from langwright.corpus.split import SPLITS, Part, enough_documents, split_groups, split_positions
from langwright.corpus.staging import Entry

Plan = list[list[Part]]  # for each document its parts; an empty list leaves it out


def plan_splits(entries: list[Entry], config: CorpusConfig) -> Plan:
    """For each document the parts it is cut into (mostly one) and their splits."""
    shares = {"valid": config.valid_share, "test": config.test_share}
    cut = _cut_sources(entries, config, shares)
    sizes: dict[str, dict[str, int]] = {}
    pieces: dict[tuple[str, str], list[int]] = {}
    for number, entry in enumerate(entries):
        if entry.whole or entry.source not in cut:
            strata = sizes.setdefault(entry.group, {})
            strata[entry.stratum] = strata.get(entry.stratum, 0) + entry.size
        else:
            pieces.setdefault((entry.source, entry.origin), []).append(number)
    split_of = split_groups(sizes, shares, config.seed)
    plan: Plan = []
    for entry in entries:
        split = split_of.get(entry.group)
        plan.append([Part(split, 0, entry.characters)] if split else [])
    for numbers in pieces.values():
        lengths = [entries[number].characters for number in numbers]
        for number, parts in zip(numbers, split_positions(lengths, shares), strict=True):
            plan[number] = parts
    return plan


def drop_duplicates(entries: list[Entry], plan: Plan) -> Counter[str]:
    """Take documents of equal content out of the plan, all but one; counted by source.

    One in the training text is kept before one that is held out: what is trained on is no test.
    """
    dropped: Counter[str] = Counter()
    seen: set[bytes] = set()
    for split in SPLITS:
        for number, parts in enumerate(plan):
            # A document that is cut has its beginning in training and counts there.
            if parts and parts[0].split == split:
                key = entries[number].key
                if key in seen:
                    plan[number] = []
                    dropped[entries[number].source] += 1
                seen.add(key)
    return dropped


def _cut_sources(entries: list[Entry], config: CorpusConfig, shares: dict[str, float]) -> set[str]:
    """Sources whose documents are cut by position, being too few to hold out whole ones."""
    origins: dict[str, set[str]] = {}
    for entry in entries:
        if not entry.whole:
            origins.setdefault(entry.source, set()).add(entry.origin)
    if config.split != "auto":
        return set(origins) if config.split == "position" else set()
    return {name for name, there in origins.items() if not enough_documents(len(there), shares)}
