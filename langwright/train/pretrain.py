"""The stage that makes a base model: documents in, a model folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langwright.base import UserError
from langwright.dataset import Rows, TokenShards, eval_windows, open_training_rows
from langwright.formats import save_model
from langwright.model import ModelConfig
from langwright.parallel import announce, world
from langwright.tokenizer import load_tokenizer
from langwright.train.config import PretrainConfig
from langwright.train.starting import starting_model
from langwright.train.trainer import Trainer


def pretrain(
    config: PretrainConfig, model: ModelConfig, dataset: Path, tokenizer: Path, out: Path
) -> dict[str, Any]:
    """Train a new model, or `config.start_from` further, on a dataset folder.

    Args:
        config: the run.
        model: the model's shape; its vocabulary must be at least the tokenizer's.
        dataset: folder of the dataset stage.
        tokenizer: folder of the tokenizer stage; it is put beside the model.
        out: gets ``model/`` (a Hugging Face folder), ``metrics.jsonl``, ``choices.json`` and
            ``checkpoints/``. Called again after an interruption, it goes on.

    Returns:
        Metrics of the run: losses, tokens, seconds, tokens per second, share of peak, memory.
    """
    announce("pretrain", config=config, model=model, dataset=dataset, tokenizer=tokenizer, out=out)
    words = load_tokenizer(tokenizer)
    if model.vocab_size < words.vocab_size:
        raise UserError(
            "the model's vocabulary is smaller than the tokenizer's",
            where="model.vocab_size",
            found=model.vocab_size,
            expected=f"at least {words.vocab_size}",
        )
    shards = TokenShards(dataset)
    rows = open_training_rows(shards, config.train_split, config.seed)
    valid: dict[str, Rows] = {}
    if config.valid_split is not None:
        for source in shards.sources(config.valid_split):
            valid[source] = eval_windows(shards, config.valid_split, source)
    several = world().size > 1
    network = starting_model(config, model, "meta" if several else "cpu")
    options: dict[str, Any] = {"valid": valid, "tokenizer": words, "title": "pretrain"}
    trainer = Trainer(network, rows, config, out, fresh=config.start_from is None, **options)
    metrics = trainer.run()
    if world().first:
        save_model(out / "model", network, words)
    return metrics
