"""The parts of an evaluation as plain JSON values."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from langwright.base import machine, read_json
from langwright.corpus import read_conversations
from langwright.evaluate.classics import Classic, join_documents
from langwright.evaluate.config import EvaluateConfig
from langwright.evaluate.documents import DocumentLosses, document_losses
from langwright.evaluate.heldout import HeldOut
from langwright.evaluate.loss import Loss
from langwright.evaluate.memorisation import verbatim_copies
from langwright.evaluate.questions import answer_questions, assistant_loss, summarise_answers
from langwright.generate import LanguageModel
from langwright.model import Transformer

Z95 = 1.959964  # standard errors on each side of a 95 % interval


@contextlib.contextmanager
def computing(model: Transformer, precision: str) -> Iterator[torch.dtype]:
    """Let the model compute losses in bf16 or fp32; it is as before afterwards.

    "auto" is bf16 where the model's device multiplies it fast, else what it was loaded in.
    """
    before = model.compute_dtype
    wanted = {"fp32": torch.float32, "bf16": torch.bfloat16}.get(precision, before)
    if precision == "auto" and machine().bf16 and model.device.type == machine().device:
        wanted = torch.bfloat16
    model.compute_dtype = wanted
    try:
        yield wanted
    finally:
        model.compute_dtype = before


def losses_of(
    config: EvaluateConfig,
    lm: LanguageModel,
    held: Sequence[HeldOut],
    name: str,
    progress: Callable[[int], None] | None = None,
) -> tuple[list[dict[str, Any]], list[DocumentLosses]]:
    """One table row per (source, split), and what they were made from."""
    rows, found = [], []
    for one in held:
        with computing(lm.model, config.precision) as dtype:
            losses = document_losses(
                lm.model,
                lm.text_tokenizer,
                one.texts,
                stride=config.stride,
                together=config.together,
                progress=progress,
            )
        found.append(losses)
        rows.append(
            {
                "model": name,
                "split": one.split,
                "source": one.source,
                "whole_split": one.whole_split,
                "lossless": lossless(lm, one.texts),
                "computed_in": str(dtype).removeprefix("torch."),
                **losses.loss().to_json(),
            }
        )
    return rows, found


def token_count(lm: LanguageModel, held: HeldOut) -> int:
    """Tokens of the held-out texts, their ends included."""
    return sum(len(ids) + 1 for ids in lm.text_tokenizer.encode_batch(held.texts))


def lossless(lm: LanguageModel, texts: Sequence[str]) -> bool:
    """Whether the ids give the text back: only then are bits per byte those of a real code."""
    ids = lm.text_tokenizer.encode_batch(texts)
    return all(lm.text_tokenizer.decode(one) == text for one, text in zip(ids, texts, strict=True))


def joined(parts: Sequence[DocumentLosses]) -> Loss:
    """The loss over several sources together."""
    columns = [np.concatenate(column) for column in zip(*(vars(part).values() for part in parts))]
    return DocumentLosses(*columns).loss()


def bits_row(loss: Loss) -> dict[str, Any]:
    """Bits per byte with a 95 % interval over documents."""
    bits, error = loss.bits_per_byte, loss.bits_per_byte_error
    assert bits is not None
    low, high = (None, None) if error is None else (bits - Z95 * error, bits + Z95 * error)
    return {
        "bits_per_byte": bits,
        "low": low,
        "high": high,
        "bytes": loss.bytes,
        "documents": loss.units,
    }


def classic_rows(classics: Mapping[str, Classic]) -> dict[str, dict[str, Any]]:
    """Bits per byte and seconds of each classic."""
    return {
        name: {"bits_per_byte": one.bits_per_byte, "seconds": one.seconds}
        for name, one in classics.items()
    }


def memorisation(
    config: EvaluateConfig,
    samples: Sequence[Mapping[str, Any]],
    held: Sequence[HeldOut],
    train: bytes,
) -> dict[str, Any]:
    """Copies in the samples, beside those in as much held-out text (quotations, licences ...)."""
    texts = [sample["text"] for sample in samples if sample["text"]]
    result: dict[str, Any] = {"length": config.copy_length, "training_bytes": len(train)}
    if not texts:
        return result
    size = sum(map(len, texts)) // len(texts) + 1
    pieces = [text[:size] for one in held for text in one.texts if len(text) >= size // 2]
    spread = pieces[:: max(1, len(pieces) // len(texts))][: len(texts)]
    for name, looked_at in (("samples", texts), ("held_out", spread)):
        copies = verbatim_copies(looked_at, train, config.copy_length)
        result[name] = {
            **asdict(copies),
            "bytes": sum(len(t.encode("utf-8", "replace")) for t in looked_at),
        }
    return result


def questions(
    config: EvaluateConfig, lm: LanguageModel, base: LanguageModel | None, corpus: Path
) -> dict[str, Any]:
    """Answers to held-out questions, scored, and the loss on the right answers before and after."""
    if config.questions == 0 or lm.text_tokenizer.chat_template is None:
        return {"count": 0, "shown": []}
    split, conversations = _held_out_conversations(corpus)
    if not conversations:
        return {"count": 0, "shown": []}
    order = np.random.default_rng(config.seed).permutation(len(conversations))
    chosen = [conversations[index] for index in order[: config.questions]]
    most = min(config.answer_tokens, lm.config.context_length // 2)
    answers = answer_questions(lm, chosen, max_tokens=most)
    result: dict[str, Any] = {
        "split": split,
        "asked": len(chosen),
        "held_out_conversations": len(conversations),
        **summarise_answers(answers, config.seed),
        "shown": [answer.to_json() for answer in answers[: config.questions_shown]],
    }
    for name, model in (("loss_before", base), ("loss_after", lm)):
        loss = (
            assistant_loss(model.model, model.text_tokenizer, chosen) if model is not None else None
        )
        result[name] = None if loss is None else loss.to_json()
    return result


def _held_out_conversations(corpus: Path) -> tuple[str, list[dict[str, Any]]]:
    """The test split's conversations, or the validation split's where that has none."""
    for split in ("test", "valid"):
        if (Path(corpus) / "conversations" / f"{split}.jsonl").exists():
            found = read_conversations(corpus, split)
            if found:
                return split, found
    return "test", []


def test_looks(out: Path, measured: bool) -> dict[str, Any]:
    """How often the test split has been measured for this run: it is honest only the first time.

    An earlier evaluation lies where `out` will be put when the stage is done.
    """
    earlier = out.with_name(out.name.removesuffix(".partial")) / "evaluation.json"
    times = 0
    if earlier.exists():
        times = int(read_json(earlier).get("test_split", {}).get("times_measured", 0))
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {
        "measured": measured,
        "times_measured": times + int(measured),
        "at": now,
        "note": "the test split is for the last figure only; choose between models on valid",
    }


def held_out_bytes(held: Sequence[HeldOut]) -> tuple[bytes, int]:
    """Several held-out parts as the classics see them, and their bytes without separators."""
    return b"".join(join_documents(one.texts) for one in held), sum(one.bytes for one in held)
