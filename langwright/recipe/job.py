"""A recipe's pretraining as a `Job` that can be planned without doing any of it."""

from __future__ import annotations

from pathlib import Path

from langwright.model import ModelConfig, model_config
from langwright.plan import Device, Job
from langwright.recipe.config import Recipe
from langwright.recipe.dial import GPT2_VOCABULARY, TRAINED
from langwright.tokenizer import load_tokenizer
from langwright.train import training_job

CHARACTERS = 256  # stands in for a character tokenizer's alphabet, which the text decides


def recipe_job(recipe: Recipe, device: Device) -> Job:
    """What a recipe's pretraining will do on a device; "auto" is decided as there.

    Raises:
        UserError: the model's section is wrong, or the device lacks the number format.
    """
    config = recipe.pretrain
    precision = config.precision
    if precision == "auto":
        precision = "bf16" if "bf16" in device.peaks else "fp32"
    length = recipe.dataset.sequence_length
    return training_job(config, planned_model(recipe), length, precision)


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
