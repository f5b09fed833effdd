"""Tokenizer: speed of training a vocabulary and of encoding, beside Hugging Face `tokenizers`.

    python benchmarks/tokenizer.py
    python benchmarks/tokenizer.py --vocab-size 32768 --rounds 5

The text is the source code of the running Python's standard library (about 12 MB). Contenders
run in turn, round after round, and the best round of each counts, since other work on the
machine can only slow one down. Before anything is timed, the ids of all encoders are compared.
"""

from __future__ import annotations

import argparse
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import CHECKOUT, finish, table

sys.path.insert(0, str(CHECKOUT))

from langwright.tokenizer import PATTERNS, BytePairTokenizer, train_merges

PATTERN = PATTERNS["qwen2"]


def standard_library() -> list[str]:
    """One text for each module, tests left out."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    texts = []
    for path in sorted(folder.rglob("*.py")):
        if not {"site-packages", "test", "tests"} & set(path.parts):
            texts.append(path.read_text(encoding="utf-8", errors="replace")[:200_000])
    return texts


def train_hugging_face(texts: list[str], size: int) -> set[str]:
    """The tokens that `tokenizers` learns with the same pattern."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    return set(learner.get_vocab())


def timed(contenders: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict, dict]:
    """Best seconds of each contender and what it returned."""
    best: dict[str, float] = {}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, work in contenders.items():
            started = time.perf_counter()
            results[name] = work()
            seconds = time.perf_counter() - started
            best[name] = min(seconds, best.get(name, seconds))
    return best, results


def report(title: str, best: dict[str, float], peer: str, megabytes: float) -> dict[str, float]:
    """Print seconds, MB/s and how many times the peer's speed; returns MB/s."""
    rows = [
        (name, f"{seconds:.2f}", f"{megabytes / seconds:.1f}", f"{best[peer] / seconds:.1f} x")
        for name, seconds in best.items()
    ]
    table(title, ("who", "seconds", "MB/s", f"of {peer}"), rows)
    return {name: round(megabytes / seconds, 2) for name, seconds in best.items()}


def main() -> None:
    """Train, then encode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab-size", type=int, default=8192, help="256 bytes and the merges")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender runs")
    options = parser.parse_args()
    texts = standard_library()
    megabytes = sum(len(text.encode("utf-8")) for text in texts) / 1e6
    merges = options.vocab_size - 256
    print(f"{len(texts)} texts, {megabytes:.1f} MB, vocabulary {options.vocab_size:,}")

    best, learned = timed(
        {
            "ours (rustbpe)": lambda: train_merges(texts, merges, PATTERN, "rustbpe"),
            "ours (plain Python)": lambda: train_merges(texts, merges, PATTERN, "python"),
            "tokenizers": lambda: train_hugging_face(texts, options.vocab_size),
        },
        options.rounds,
    )
    training = report("Training", best, "tokenizers", megabytes)
    if learned["ours (rustbpe)"] != learned["ours (plain Python)"]:
        raise SystemExit("the two trainers have learned different merges")
    tokenizer = BytePairTokenizer.from_merges(learned["ours (rustbpe)"])
    shared = len(learned["tokenizers"] & set(tokenizer.to_json()["model"]["vocab"]))
    print(f"  tokens shared with tokenizers: {shared:,} of {options.vocab_size:,}")

    engines = {
        name: BytePairTokenizer(tokenizer.ranks, PATTERN, encoder=name)
        for name in ("tiktoken", "regex", "tokenizers")
    }
    contenders: dict[str, Callable[[], Any]] = {
        "ours (tiktoken)": lambda: engines["tiktoken"].encode_batch(texts),
        "ours (tiktoken), one by one": lambda: [engines["tiktoken"].encode(one) for one in texts],
        "ours (plain Python)": lambda: engines["regex"].encode_batch(texts),
        "tokenizers": lambda: engines["tokenizers"].encode_batch(texts),
    }
    first = [list(ids) for ids in contenders["ours (tiktoken)"]()]
    for name, work in contenders.items():
        if [list(ids) for ids in work()] != first:
            raise SystemExit(f"{name} gives other ids")
    encoding = report("Encoding", timed(contenders, options.rounds)[0], "tokenizers", megabytes)
    finish("tokenizer", {"training_mb_s": training, "encoding_mb_s": encoding, "shared": shared})


if __name__ == "__main__":
    main()
