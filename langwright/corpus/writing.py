"""Carrying out the plan: documents from staging into the splits, leaks found and dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langwright.corpus.document import Document
from langwright.corpus.leakage import LeakCheck
from langwright.corpus.plan import Plan
from langwright.corpus.split import SPLITS, Part
from langwright.corpus.store import DocumentWriter, read_parquet

Counts = dict[str, dict[str, dict[str, int]]]  # source -> split -> documents, characters, bytes


@dataclass
class Written:
    """What went where."""

    counts: Counts = field(default_factory=dict)
    leakage: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def write_splits(staged: Path, plan: Plan, out: Path, leak_limit: float) -> Written:
    """Write ``out/<split>/<source>.parquet`` for all splits.

    Held-out documents of whose long lines more than `leak_limit` stand in the training text, or in
    held-out documents of the same source before them, are left out of their split: each thing is
    measured once, and none that was learned. Unless that were more than half of the split: then
    the corpus is repetitive by nature, all stay, and a warning says so. The ends of cut documents
    always stay.
    """
    written = Written()
    check = LeakCheck()
    for _, part, document in _parts(staged, plan):
        if part.split != "train":
            check.hold_out(document.text)
    with _Writers(out, written.counts) as writers:
        for _, part, document in _parts(staged, plan):
            if part.split == "train":
                check.see_training(document.text)
                writers.write(part.split, document)
        leaking = _leaking(staged, plan, check, leak_limit, written)
        lines: dict[str, list[int]] = {}  # split/source -> leaked and all characters of long lines
        for number, part, document in _parts(staged, plan):
            if part.split != "train" and number not in leaking:
                writers.write(part.split, document)
                total = lines.setdefault(f"{part.split}/{document.source}", [0, 0])
                for place, value in enumerate(check.leaked(document.text)):
                    total[place] += value
    leaked, every = (sum(total[i] for total in lines.values()) for i in (0, 1))
    written.leakage = {
        "measure": "share of held-out lines of 40 or more characters, by characters, that stand "
        "word for word in the training text",
        "share": _share(leaked, every),
        "by_split_and_source": {name: _share(*total) for name, total in sorted(lines.items())},
        "documents_dropped": len(leaking),
    }
    return written


def _leaking(
    staged: Path, plan: Plan, check: LeakCheck, limit: float, written: Written
) -> set[int]:
    """Numbers of the held-out documents to leave out."""
    found: dict[str, list[int]] = {}
    lost: Counter[str] = Counter()
    held: Counter[str] = Counter()
    before: dict[str, LeakCheck] = {}  # by source: the held-out text that was already passed
    for number, part, document in _parts(staged, plan):
        if part.split == "train":
            continue
        place = f"{part.split}/{document.source}"
        held[place] += len(document.text)
        passed = before.setdefault(document.source, LeakCheck())
        leaked, every = check.leaked(document.text)
        repeated, _ = passed.leaked(document.text)
        passed.remember(document.text)
        copied = max(leaked, repeated)
        if copied > limit * every and len(plan[number]) == 1 and part.start == 0:
            found.setdefault(place, []).append(number)
            lost[place] += len(document.text)
    leaking: set[int] = set()
    for place, numbers in found.items():
        if lost[place] * 2 > held[place]:
            written.warnings.append(
                f"{place}: {len(numbers)} held-out documents mostly repeat training text or "
                "each other; they were kept, since they are more than half. Scores on it will "
                "look too good."
            )
        else:
            leaking.update(numbers)
    return leaking


def _parts(staged: Path, plan: Plan) -> Iterator[tuple[int, Part, Document]]:
    """Every part of the plan with its text: (number of the document, part, part as a document)."""
    for number, document in enumerate(read_parquet(staged)):
        for part in plan[number]:
            if part.start == 0 and part.end == len(document.text):
                yield number, part, document
                continue
            meta = {**document.meta, "characters": [part.start, part.end]}
            text = document.text[part.start : part.end]
            yield number, part, Document(text, f"{document.id}@{part.start}", document.source, meta)


class _Writers:
    """A writer for each split and source, opened when its first document comes."""

    def __init__(self, out: Path, counts: Counts) -> None:
        self._out = out
        self._counts = counts
        self._open: dict[tuple[str, str], DocumentWriter] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Writers:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, split: str, document: Document) -> None:
        place = (split, document.source)
        if place not in self._open:
            path = self._out / split / f"{document.source}.parquet"
            self._open[place] = self._stack.enter_context(DocumentWriter(path))
        self._open[place].write(document)
        splits = self._counts.setdefault(
            document.source,
            {name: {"documents": 0, "characters": 0, "bytes": 0} for name in SPLITS},
        )
        splits[split]["documents"] += 1
        splits[split]["characters"] += len(document.text)
        splits[split]["bytes"] += document.bytes


def _share(leaked: int, every: int) -> float:
    return round(leaked / every, 5) if every else 0.0
