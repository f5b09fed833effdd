"""A recipe's pretraining as a `Job` that can be planned without doing any of it."""

from __future__ import annotations

from pathlib import Path

from langwright.model import ModelConfig, model_config
from langwright.plan import Device, Job
from langwright.recipe.config import Recipe
from langwright.recipe.dial import GPT2_VOCABULARY, TRAINED
from langwright.tokenizer import load_tokenizer

CHARACTERS = 256  # stands in for a character tokenizer's alphabet, which the text decides


def recipe_job(recipe: Recipe, device: Device) -> Job:
    """What a recipe's pretraining will do on a device; "auto" is decided as there.

    Raises:
        UserError: the model's section is wrong, or the device lacks the number format.
    """
    config = recipe.pretrain
    tokens = config.tokens
    length = recipe.dataset.sequence_length
    if config.steps is not None:
        tokens = config.steps * (config.batch_tokens // length) * length
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if "bf16" in device.peaks else "fp32"
    on_gpu = device.bandwidth is not None
    return Job(
        model=planned_model(recipe),
        sequence_length=length,
        batch_tokens=config.batch_tokens,
        tokens=tokens,
        minutes=config.minutes,
        parallel=config.parallel,
        optimizer=config.optim.name,
        precision=precision,
        micro_rows=config.micro_batch_rows,
        chunk_tokens=config.chunk_tokens,
        checkpointing=config.checkpointing,
        activation_budget=config.activation_budget,
        compiled=on_gpu if config.compile == "auto" else config.compile,
    )


def planned_model(recipe: Recipe) -> ModelConfig:
    """The model, its vocabulary as far as it is known before the tokenizer is made."""
    table = {"context_length": recipe.dataset.sequence_length, **recipe.model}
    tokenizer = recipe.tokenizer
    size: int | None = None
    if tokenizer.kind in TRAINED:
        size = tokenizer.vocab_size
    elif tokenizer.kind == "gpt2":
        size = GPT2_VOCABULARY
    elif tokenizer.kind == "char":
        size = CHARACTERS
    elif tokenizer.path is not None and Path(tokenizer.path).expanduser().exists():
        size = load_tokenizer(Path(tokenizer.path).expanduser()).vocab_size
    if size is None and "vocab_size" not in table and "preset" not in table:
        return recipe.architecture()
    return model_config(table, vocab_size=size, where="[model]")
