"""The corpus stage: read, split, drop duplicates and leaks, write, make conversations."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

from langwright.base import UserError, write_json
from langwright.corpus.chats import Conversation, conversation_of, read_chats, take
from langwright.corpus.config import CorpusConfig
from langwright.corpus.locate import PYTHON_SOURCES
from langwright.corpus.plan import drop_duplicates, plan_splits
from langwright.corpus.python_corpus import DOCS
from langwright.corpus.questions import continuation_conversations, docstring_conversations
from langwright.corpus.split import SPLITS
from langwright.corpus.staging import stage_documents
from langwright.corpus.store import read_documents, sources, write_conversations
from langwright.corpus.tally import Tally
from langwright.corpus.writing import Counts, write_splits

_DRAWN_FROM = 8  # conversations looked at for each one taken


def build_corpus(config: CorpusConfig, out: Path) -> dict[str, Any]:
    """Fill `out` with a corpus: ``<split>/<source>.parquet``, conversations, ``report.json``.

    The result is a pure function of the config and the files it names: built twice, the bytes are
    the same.

    Returns:
        the report: documents, characters and bytes by source and split; duplicates; skips by
        reason with examples; the leaked share of the held-out text; conversations.

    Raises:
        UserError: nothing to read, too little text, contradicting settings.
    """
    config.check()
    for name in (*SPLITS, "conversations"):  # of an interrupted call
        shutil.rmtree(out / name, ignore_errors=True)
    staged = out / ".staging.parquet"
    tally = Tally()
    try:
        entries = stage_documents(config, staged, tally)
        plan = plan_splits(entries, config)
        duplicates = drop_duplicates(entries, plan) if config.deduplicate else {}
        trained = (part for parts in plan for part in parts if part.split == "train")
        _check_size(config, sum(part.end - part.start for part in trained), tally)
        written = write_splits(staged, plan, out, config.leak_limit)
    finally:
        staged.unlink(missing_ok=True)
    report: dict[str, Any] = {
        "sources": written.counts,
        "totals": _totals(written.counts),
        "duplicates": {"total": sum(duplicates.values()), **dict(sorted(duplicates.items()))},
        "leakage": written.leakage,
        "conversations": _write_conversations(config, out, tally),
        "skipped": tally.summary(),
        "warnings": written.warnings + _warnings(config, written.counts),
        **tally.notes,
    }
    if set(PYTHON_SOURCES) & set(config.sources):
        report["python"] = platform.python_version()
    write_json(out / "report.json", report)
    return report


def _check_size(config: CorpusConfig, characters: int, tally: Tally) -> None:
    if characters and characters >= config.minimum_characters:
        return
    left_out = tally.describe()
    raise UserError(
        "the corpus is too small to train on",
        where=", ".join(config.sources),
        found=f"{characters:,} characters of training text"
        + (f"; left out: {left_out}" if left_out else ""),
        expected=f"at least {max(config.minimum_characters, 1):,} characters",
        fix="add more text, or lower corpus.minimum_characters",
    )


def _warnings(config: CorpusConfig, counts: Counts) -> list[str]:
    shares = {"valid": config.valid_share, "test": config.test_share}
    return [
        f"no text was held out for {split}: the corpus has too few documents"
        for split, share in shares.items()
        if share > 0 and not any(splits[split]["documents"] for splits in counts.values())
    ]


def _totals(counts: Counts) -> dict[str, dict[str, int]]:
    return {
        split: {
            unit: sum(splits[split][unit] for splits in counts.values())
            for unit in ("documents", "characters", "bytes")
        }
        for split in SPLITS
    }


def _write_conversations(config: CorpusConfig, out: Path, tally: Tally) -> dict[str, int]:
    """``conversations/<split>.jsonl`` for every split; returns how many are in each."""
    if config.conversations == "none":
        return {}
    if config.conversations == "auto":
        chats = {split: list(_made_from(out, split, config)) for split in SPLITS}
    else:
        chats = read_chats(config.conversations, config, tally)
    counts = {}
    asked: set[str] = set()
    for split in SPLITS:  # training first: a question asked there is not asked again
        fresh = [chat for chat in chats[split] if _is_new(chat, asked)]
        kept = take(fresh, config.max_conversations, config.seed)
        counts[split] = write_conversations(out / "conversations" / f"{split}.jsonl", kept)
    return counts


def _made_from(out: Path, split: str, config: CorpusConfig) -> Iterator[Conversation]:
    """Chats among the split's documents; where there are none, pairs made from its text."""
    most = config.max_conversations * _DRAWN_FROM
    chats = (conversation_of(document) for document in read_documents(out, split))
    found = list(islice((chat for chat in chats if chat is not None), most))
    if found:
        return iter(found)
    names = sources(out, split)
    made: list[Iterator[Conversation]] = []
    for name in names:
        documents = read_documents(out, split, name)
        if name == DOCS and DOCS in config.sources:
            made.append(docstring_conversations(documents, config.seed))
        elif name not in PYTHON_SOURCES:
            made.append(continuation_conversations(documents, config.seed))
    return islice(chain.from_iterable(made), most)


def _is_new(chat: Conversation, seen: set[str]) -> bool:
    """Whether no chat before had the same messages but for the last answer."""
    question = repr(chat["messages"][:-1])
    if question in seen:
        return False
    seen.add(question)
    return True
