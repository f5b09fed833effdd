"""A checkpoint of a run, by whatever number of processes, as a model folder in Hugging Face's
layout."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from langwright.base import UserError
from langwright.formats import save_model
from langwright.model import ModelConfig, Transformer
from langwright.train.checkpoint import STATE, open_checkpoint, restore_model

if TYPE_CHECKING:
    from langwright.tokenizer import Tokenizer


def is_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a checkpoint of a run."""
    return (folder / STATE).exists()


def consolidate(checkpoint: Path, out: Path, tokenizer: Tokenizer | None = None) -> None:
    """Write the weights of a checkpoint as a model folder.

    Args:
        checkpoint: its folder, such as ``checkpoints/step-0000100`` or ``checkpoints/best``; its
            files are checked.
        out: gets config.json, model.safetensors (or several and an index) and so on.
        tokenizer: is put beside the weights.

    Raises:
        UserError: the checkpoint is not whole, or does not tell what model it is of.
    """
    found = open_checkpoint(checkpoint)
    table = found.state.get("model")
    if table is None:
        raise UserError("this checkpoint does not tell its model's config", where=checkpoint)
    with torch.device("meta"):
        model = Transformer(ModelConfig.parse(table))
    model.to_empty(device="cpu")
    restore_model(model, found.weights(), checkpoint)
    save_model(out, model, tokenizer)
