"""Looking at the model while it trains: validation losses and samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from langwright.base import seed_for
from langwright.dataset import Rows
from langwright.evaluate import evaluate_rows
from langwright.generate import Sampling, generate_tokens
from langwright.train.compiling import uncompiled
from langwright.train.config import TrainConfig
from langwright.train.metrics import Record, finite, perplexity


def evaluate_all(model: Any, valid: Mapping[str, Rows], max_rows: int | None) -> Record:
    """Validation losses in nats per token, over each set and over all tokens of all sets.

    Returns:
        ``valid_loss``, ``valid_perplexity``; with several sets also ``valid_<name>`` for each; and
        bits per byte where the rows know how many bytes they are.
    """
    record: Record = {}
    total, tokens = 0.0, 0
    for name, rows in valid.items():
        with uncompiled():
            loss = evaluate_rows(model, rows, max_rows)
        total += loss.nats_per_token * loss.tokens
        tokens += loss.tokens
        if len(valid) > 1:
            record[f"valid_{name}"] = finite(loss.nats_per_token)
        if (bytes_per_token := getattr(rows, "bytes_per_target", None)) is not None:
            bits = loss.nats_per_token / math.log(2) / bytes_per_token
            record[f"valid_{name}_bits_per_byte"] = finite(bits)
    mean = total / max(1, tokens)
    return {"valid_loss": finite(mean), "valid_perplexity": perplexity(mean), **record}


def draw_samples(model: Any, tokenizer: Any, config: TrainConfig) -> list[dict[str, str]]:
    """A continuation of each of the config's prompts; the same draws at every step."""
    prompts = config.sample_prompts
    sampling = Sampling.parse({"max_tokens": config.sample_tokens})
    seeds = [seed_for(config.seed, "sample", i) for i in range(len(prompts))]
    with uncompiled():
        answers = generate_tokens(
            model,
            [tokenizer.encode(prompt) for prompt in prompts],
            sampling,
            tokenizer.stop_ids,
            tokenizer=tokenizer,
            seeds=seeds,
        )
    return [{"prompt": p, "text": answer.text} for p, answer in zip(prompts, answers)]


def told(losses: Record) -> str:
    """The losses as a person reads them."""
    loss, confusion = losses["valid_loss"], losses["valid_perplexity"]
    if loss is None or confusion is None:
        return "validation loss is not finite"
    return f"validation loss {loss:.4f}, perplexity {confusion:,.1f}"
