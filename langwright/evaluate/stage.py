"""The evaluation stage: everything that is measured about a finished model, in one JSON file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import torch

from langwright.base import Progress, write_json
from langwright.corpus import sources
from langwright.evaluate.classics import Classic, classics_of_many
from langwright.evaluate.config import EvaluateConfig
from langwright.evaluate.documents import DocumentLosses
from langwright.evaluate.heldout import HeldOut, choose_headline, held_out, training_bytes
from langwright.evaluate.measures import (
    bits_row,
    classic_rows,
    held_out_bytes,
    joined,
    losses_of,
    memorisation,
    questions,
    test_looks,
    token_count,
)
from langwright.evaluate.samples import draw_samples
from langwright.generate import load

WHOLE = "whole"
SPLITS = ("valid", "test")


def evaluate(
    config: EvaluateConfig, model: Path, corpus: Path, out: Path, base: Path | None = None
) -> dict[str, Any]:
    """Measure a model and write ``evaluation.json`` into `out`.

    Args:
        config: how much of what.
        model: folder of the final model, which answers the questions.
        corpus: folder of the corpus it was trained on.
        out: where the results go.
        base: folder of the pretrained model before fine-tuning: the losses, the bits per byte and
            the samples are its. None: they are those of `model`.

    Returns:
        The chief figures. ``evaluation.json`` holds everything, under these keys:
        - headline: source, split, model, xz, zstd, 5-gram (bits_per_byte each)
        - losses: per model, split and source: nats_per_token, standard_error, perplexity,
          bits_per_byte, tokens, bytes, units (documents)
        - bits_per_byte: per scope (a source, or "whole" for all together) the same as headline
        - samples: kind, prompt, text, tokens, finish_reason
        - memorisation: share and longest copy in samples and, to compare, in held-out text
        - questions: f1, chance_f1, ended (mean, low, high), loss_before, loss_after, shown
        - classics_training, test_split, settings
    """
    lm = load(model, config.device, torch.float32)
    base_lm = load(base, config.device, torch.float32) if base is not None else lm
    held = _all_held_out(config, corpus)
    split = "test" if "test" in {one.split for one in held} else "valid"
    measured = [one for one in held if one.split == split]
    headline = choose_headline([one.source for one in measured], config.headline_source)
    train, all_train = training_bytes(corpus, headline, config.classics_train_bytes)
    scopes = {one.source: [one] for one in measured}
    scopes |= {WHOLE: measured} if len(measured) > 1 else {}
    after = scopes[headline] if base else []
    compared = {name: scopes[name] for name in (headline, WHOLE) if name in scopes}
    total = sum(token_count(base_lm, one) for one in [*held, *after])
    with _in_background(config, train, compared) as classic, _progress(total) as progress:
        name = "base" if base else "model"
        losses, found = losses_of(config, base_lm, held, name, progress.advance)
        losses += losses_of(config, lm, after, "fine-tuned", progress.advance)[0]
        samples = draw_samples(config, base_lm, measured)
        asked = questions(config, lm, base_lm if base is not None else None, corpus)
        copies = memorisation(config, samples, measured, train)
        progress.update(waiting_for="the compressors")
        classic_figures = classic.result()
    by_part = {(one.source, one.split): part for one, part in zip(held, found, strict=True)}
    table = _table(scopes, by_part, classic_figures)
    result = {
        "headline": {"source": headline, "split": split, **table[headline]},
        "losses": losses,
        "bits_per_byte": table,
        "classics_training": {"bytes": len(train), "all_of_it": all_train},
        "samples": samples,
        "memorisation": copies,
        "questions": asked,
        "test_split": test_looks(out, measured=split == "test"),
        "settings": config.to_json(),
    }
    write_json(out / "evaluation.json", result)
    return _metrics(result)


def _all_held_out(config: EvaluateConfig, corpus: Path) -> list[HeldOut]:
    """The held-out texts of every source and split that has any."""
    parts = [
        held_out(corpus, split, source, config.max_heldout_bytes, config.seed)
        for split in SPLITS
        for source in sources(corpus, split)
    ]
    return [part for part in parts if part.texts]


def _progress(tokens: int) -> Progress:
    return Progress("evaluate", total=tokens, unit="tokens")


@contextlib.contextmanager
def _in_background(
    config: EvaluateConfig, train: bytes, scopes: dict[str, list[HeldOut]]
) -> Iterator[Future[dict[str, dict[str, Classic]]]]:
    """The classics per scope, made beside the model's work; nothing where they are switched off.

    They need one core, and the small batches of generation do not fill two. Whatever ends the
    block early (Ctrl-C) ends them too.
    """
    texts = {name: held_out_bytes(parts) for name, parts in scopes.items()}
    stop = Event()

    def work() -> dict[str, dict[str, Classic]]:
        if not config.classics:
            return {}
        return classics_of_many(
            train,
            {name: data for name, (data, _) in texts.items()},
            text_bytes={name: size for name, (_, size) in texts.items()},
            threads=1,
            stop=stop,
        )

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(work)
        finally:
            stop.set()


def _table(
    scopes: dict[str, list[HeldOut]],
    found: dict[tuple[str, str], DocumentLosses],
    classic: dict[str, dict[str, Classic]],
) -> dict[str, dict[str, Any]]:
    """Bits per byte of the model beside the classics, for each scope."""
    return {
        name: {
            "model": bits_row(joined([found[one.source, one.split] for one in parts])),
            **classic_rows(classic.get(name, {})),
        }
        for name, parts in scopes.items()
    }


def _metrics(result: dict[str, Any]) -> dict[str, Any]:
    """The chief figures as one flat table."""
    headline = result["headline"]
    metrics = {
        "source": headline["source"],
        "split": headline["split"],
        "bits_per_byte": headline["model"]["bits_per_byte"],
        "bits_per_byte_low": headline["model"]["low"],
        "bits_per_byte_high": headline["model"]["high"],
    }
    for name, row in headline.items():
        if name not in ("source", "split", "model"):
            metrics[f"{name}_bits_per_byte"] = row["bits_per_byte"]
    for row in result["losses"]:
        if row["model"] != "fine-tuned":
            metrics[f"{row['split']}_loss_{row['source']}"] = row["nats_per_token"]
    if (copied := result["memorisation"].get("samples")) is not None:
        metrics["copied_share"] = copied["share"]
    for name in ("f1", "ended"):
        if name in result["questions"]:
            metrics[f"answers_{name}"] = result["questions"][name]["mean"]
    return metrics
