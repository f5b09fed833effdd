"""Weights to begin with: fresh ones, or those of a model that was trained before (continual
pretraining; the schedule then warms up and decays again, Gupta et al. 2023, arXiv:2308.04014)."""

from __future__ import annotations

from pathlib import Path

import torch

from langwright.base import UserError
from langwright.formats import load_model
from langwright.model import ModelConfig, Transformer, build_model
from langwright.train.config import PretrainConfig


def starting_model(config: PretrainConfig, model: ModelConfig, device: str) -> Transformer:
    """The model that a run begins with.

    Args:
        config: the run; its `start_from` names a model folder, or there is none.
        model: what the model is to be.
        device: where fresh weights are made; "meta": not yet. Loaded ones are on the CPU.

    Raises:
        UserError: the folder holds no model, or one of another shape.
    """
    if config.start_from is None:
        return build_model(model, config.seed, device)
    folder = Path(config.start_from).expanduser()
    old = load_model(folder, device="cpu", dtype=torch.float32)
    with torch.device("meta"):
        new = Transformer(model)
    weights, wanted = old.state_dict(), new.state_dict()
    for name in sorted(weights.keys() | wanted.keys()):
        found = tuple(weights[name].shape) if name in weights else "nothing"
        expected = tuple(wanted[name].shape) if name in wanted else "nothing"
        if found != expected:
            raise UserError(
                f"the model to start from has another shape: {name}",
                where=f"pretrain.start_from {folder}",
                found=found,
                expected=expected,
            )
    new.load_state_dict(weights, assign=True)
    return new.train()
