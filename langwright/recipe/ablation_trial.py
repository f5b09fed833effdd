"""One run of an ablation: a short pretraining whose result is a loss."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from langwright.base import UserError, machine
from langwright.dataset import eval_windows
from langwright.evaluate import evaluate_rows
from langwright.formats import load_model
from langwright.recipe.ablation_compute import Cost
from langwright.recipe.ablation_results import Outcome
from langwright.recipe.config import Recipe
from langwright.recipe.stages import pretrain_stage
from langwright.train import PretrainConfig

LOSS = "measured_loss"
BULKY = ("model", "checkpoints", "samples", "profiles")  # not kept once the loss is known


@dataclass(frozen=True)
class Data:
    """The artifacts that runs share."""

    tokenizer: Path
    shared: Path  # the recipe's dataset: every run is measured on its validation rows
    dataset: Path  # that the run trains on


@dataclass(frozen=True)
class Trial:
    """A run that is to be: everything but the doing."""

    recipe: Recipe
    cost: Cost
    tokens: int
    seed: int
    folder: Path

    @property
    def flops(self) -> float:
        """Of the whole run, as planned."""
        return self.cost.planned(self.tokens)

    @property
    def config(self) -> PretrainConfig:
        """The training, of the length that equal compute gives."""
        return self.recipe.pretrain.replace(seed=self.seed, steps=None, tokens=self.tokens)

    def run(self, data: Data) -> Outcome:
        """Train and measure, unless that has been done; goes on where it was interrupted.

        A failure of the training itself (losses that stay infinite, no memory left) is an outcome;
        Ctrl-C and a mistake of ours are not.
        """
        stage = pretrain_stage(
            self.config, self.recipe.architecture, data.dataset, data.tokenizer, self.folder
        )

        def work(folder: Path) -> dict[str, Any]:
            metrics = stage.work(folder)
            loss = measured_loss(folder / "model", data.shared)
            for name in BULKY:
                shutil.rmtree(folder / name, ignore_errors=True)
            return {**metrics, LOSS: loss}

        lean = replace(stage, work=work, inputs={**stage.inputs, "measured on": data.shared})
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            metrics = lean.run(lambda text: None).metrics
        except (UserError, RuntimeError) as error:  # the library's errors are RuntimeErrors
            what = error.message if isinstance(error, UserError) else str(error).split("\n")[0]
            return Outcome(self.seed, error=what or type(error).__name__)
        tokens, updates = metrics["tokens"], metrics["steps"]
        flops = self.cost.of(tokens, updates)
        return Outcome(self.seed, metrics[LOSS], tokens, updates, flops, metrics["seconds"])


def measured_loss(model: Path, dataset: Path) -> float:
    """Nats per token of the whole validation split, each token once, in fp32.

    All variants are measured on the same rows, however their own rows are cut.

    Raises:
        UserError: there is no validation split, or the loss is not a number.
    """
    network = load_model(model, device=machine().device, dtype=torch.float32)
    loss = evaluate_rows(network, eval_windows(dataset, "valid")).nats_per_token
    if not loss < float("inf"):
        raise UserError("the validation loss is not a number", found=loss)
    return loss
