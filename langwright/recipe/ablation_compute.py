"""Equal compute: how long a variant may train for the FLOPs of the baseline.

Counted are matrix products: those of the model (`matmul_flops_per_token`: forward and backward,
head included, attention over what a token sees), and those of Muon's orthogonal updates, which are
done once an update and so weigh the more, the smaller the batch. A variant that needs more for a
token gets fewer tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from langwright.base import UserError
from langwright.model import ModelConfig, build_model, matmul_flops_per_token
from langwright.optim import OptimConfig, parameter_kinds
from langwright.recipe.config import Recipe
from langwright.train import PretrainConfig


@dataclass(frozen=True)
class Cost:
    """What training costs, in FLOPs."""

    per_token: float
    per_update: float  # of the optimizer
    batch_tokens: int  # of the first update, in whole rows
    updates_per_token: float  # over the whole run; 1 / batch_tokens if the batch stays

    def of(self, tokens: float, updates: float) -> float:
        """FLOPs of so many tokens in so many updates."""
        return tokens * self.per_token + updates * self.per_update

    def planned(self, tokens: float) -> float:
        """FLOPs of a run of so many tokens."""
        return self.of(tokens, tokens * self.updates_per_token)

    def tokens(self, budget: float) -> int:
        """Tokens, in whole batches, that come nearest to a budget of FLOPs; at least a batch."""
        batches = budget / self.planned(self.batch_tokens)
        return max(1, round(batches)) * self.batch_tokens


def training_cost(recipe: Recipe, model: ModelConfig) -> Cost:
    """The cost of a recipe's pretraining for a model.

    Raises:
        UserError: a batch is less than a row.
    """
    config, length = recipe.pretrain, recipe.dataset.sequence_length
    rows = config.batch_tokens // length
    if rows == 0:
        raise UserError(
            "a batch holds less than one row",
            where="pretrain.batch_tokens",
            found=config.batch_tokens,
            expected=f"at least the sequence length of {length}",
        )
    return Cost(
        per_token=matmul_flops_per_token(model, length),
        per_update=optimizer_flops(config.optim, model),
        batch_tokens=rows * length,
        updates_per_token=_updates_per_token(config, rows * length),
    )


def _updates_per_token(config: PretrainConfig, batch: float) -> float:
    """Over a run whose batch changes at planned shares of its tokens; changes by rule or at a
    step are not foreseen."""
    planned = sorted((c for c in config.changes if c.at is not None), key=lambda c: c.at or 0.0)
    total = since = 0.0
    for change in planned:
        at = change.at or 0.0
        total += (at - since) / batch
        since = at
        if change.batch_tokens is not None:
            batch = change.batch_tokens
        elif change.batch_factor is not None:
            batch *= change.batch_factor
    return total + (1.0 - since) / batch


def optimizer_flops(config: OptimConfig, model: ModelConfig) -> float:
    """FLOPs of the matrix products of one update: Muon's, else 0.

    An iteration on an m x n matrix (m <= n) makes X X^T, its square and the product with X:
    2 m^2 n + 2 m^3 + 2 m^2 n.
    """
    if config.name != "muon":
        return 0.0
    network = build_model(model, 0, "meta")
    kinds = parameter_kinds(network)
    total = 0
    for name, parameter in network.named_parameters():
        if kinds.get(name) == "matrix":
            m, n = sorted(parameter.shape[-2:])
            total += parameter.numel() // (m * n) * (4 * m * m * n + 2 * m**3)
    return float(config.orthogonal_steps * total)


def planned_tokens(recipe: Recipe, cost: Cost) -> int:
    """Tokens that a recipe asks for, in whole batches.

    Raises:
        UserError: its length is a time or a number of passes: that is no amount of work.
    """
    config = recipe.pretrain
    if config.steps is not None:
        return config.steps * cost.batch_tokens
    if config.tokens is not None:
        return -(-config.tokens // cost.batch_tokens) * cost.batch_tokens
    given = "minutes" if config.minutes is not None else "passes over the data"
    raise UserError(
        "an ablation compares runs of equal work",
        where="[pretrain]",
        found=f"a length in {given}",
        expected="a length in tokens or steps",
        fix="--set pretrain.tokens=1_000_000",
    )
