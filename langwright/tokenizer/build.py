"""The tokenizer stage: corpus to vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from langwright.base import UserError, nearest, seed_for, write_json
from langwright.corpus import read_documents, sources
from langwright.tokenizer.config import TokenizerConfig
from langwright.tokenizer.efficiency import efficiency
from langwright.tokenizer.train import portions, train_tokenizer

EFFICIENCY = "efficiency.json"


def build_tokenizer(config: TokenizerConfig, corpus: Path, out: Path) -> dict[str, Any]:
    """Train on the corpus's training split, measure on its validation split.

    Writes ``tokenizer.json``, ``tokenizer_config.json`` and ``efficiency.json`` into `out`.

    Returns:
        metrics: kind, vocab_size, training_characters (by source), bytes_per_token (by source of
        the validation split, and ``"all"``).
    """
    corpus = Path(corpus)
    if config.kind in ("gpt2", "pretrained"):
        plan: dict[str, SourcePlan] = {}
    else:
        plan = plan_sources(config, corpus)
    total = sum(source.characters for source in plan.values())
    texts = _training_texts(config, corpus, plan)
    tokenizer = train_tokenizer(config, texts, total_characters=total, quiet=False)
    tokenizer.save(out)
    measured = efficiency(tokenizer, _validation_texts(config, corpus))
    report = {"tokenizer": _summary(config, tokenizer.vocab_size), "valid": measured}
    write_json(out / EFFICIENCY, report)
    return {
        "kind": config.kind,
        "vocab_size": tokenizer.vocab_size,
        "training_characters": {name: source.characters for name, source in plan.items()},
        "bytes_per_token": {name: one["bytes_per_token"] for name, one in measured.items()},
    }


def _summary(config: TokenizerConfig, vocab_size: int) -> dict[str, Any]:
    return {"kind": config.kind, "vocab_size": vocab_size}


class SourcePlan:
    """How much of a source is used: each portion of a document with probability `share`."""

    def __init__(self, characters: int, share: float) -> None:
        self.characters = characters  # about how many will be used
        self.share = share


def plan_sources(config: TokenizerConfig, corpus: Path) -> dict[str, SourcePlan]:
    """Divide `training_characters` over the sources by weight (equal if not given).

    A source that is smaller than its part is used whole, and the others share what it leaves.
    """
    names = sources(corpus, "train")
    if not names:
        raise UserError("the corpus has no training split", where=corpus)
    weights = dict.fromkeys(names, 1.0)
    if config.source_weights is not None:
        for name in config.source_weights:
            if name not in names:
                guess = nearest(name, names)
                raise UserError(
                    "no such source",
                    where="source_weights",
                    found=name,
                    expected=", ".join(names),
                    fix=f"did you mean {guess!r}?" if guess else None,
                )
        weights = {name: config.source_weights.get(name, 0.0) for name in names}
    sizes = {name: _size(config, corpus, name) for name in names if weights[name] > 0}
    used = share_out(config.training_characters, sizes, weights)
    return {
        name: SourcePlan(used[name], used[name] / size if size else 0.0)
        for name, size in sizes.items()
    }


def share_out(
    budget: int, sizes: Mapping[str, int], weights: Mapping[str, float]
) -> dict[str, int]:
    """Divide `budget` by weight, none more than its size; what one leaves goes to the others."""
    used: dict[str, int] = {}
    waiting = dict(sizes)
    left = float(budget)
    while waiting:
        whole = sum(weights[name] for name in waiting)
        small = [name for name, size in waiting.items() if size <= left * weights[name] / whole]
        if not small:
            return used | {name: int(left * weights[name] / whole) for name in waiting}
        for name in small:
            used[name] = waiting.pop(name)
            left -= used[name]
    return used


def _size(config: TokenizerConfig, corpus: Path, source: str) -> int:
    """Characters of a source's training split that may be used."""
    documents = read_documents(corpus, "train", source)
    return sum(len(one.text[: config.max_document_characters]) for one in documents)


def _training_texts(
    config: TokenizerConfig, corpus: Path, plan: Mapping[str, SourcePlan]
) -> Iterator[str]:
    """The chosen portions. Which ones are chosen depends only on the ids of the documents."""
    for name, source in plan.items():
        for document in read_documents(corpus, "train", name):
            text = document.text[: config.max_document_characters]
            for index, portion in enumerate(portions(text)):
                draw = seed_for(0, "tokenizer", name, document.id, index) / 2**63
                if draw < source.share:
                    yield portion


def _validation_texts(config: TokenizerConfig, corpus: Path) -> dict[str, Iterator[str]]:
    return {name: _validation(config, corpus, name) for name in sources(corpus, "valid")}


def _validation(config: TokenizerConfig, corpus: Path, source: str) -> Iterator[str]:
    left = config.evaluation_characters
    for document in read_documents(corpus, "valid", source):
        if left <= 0:
            return
        yield document.text[:left]
        left -= len(document.text)
