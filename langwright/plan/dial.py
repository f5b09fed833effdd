"""One dial: from depth, or from a budget of FLOPs, to width, heads, batch, rates and tokens.

The rules are nanochat's (Karpathy 2025-2026, settings of July 2026, found by sweeps at depths 10
to 26), written for a reference of depth 12 and a batch of 2^19 tokens:

    width   64 per layer, rounded up to whole heads of 128
    N       parameters of the blocks' matrices and the head, the count that gave steady exponents
    tokens  D = 12 N
    batch   B = 2^19 (D / D_12)^0.383, as a power of two
    rates   sqrt(B / 2^19); those of embedding and head also times (width / 768)^-0.5
    decay   0.28 (B / 2^19) / (rate's factor) (D_12 / D): B / (rate decay D) stays the same

Two bounds are ours, for models smaller than any of theirs: at least 1,000 updates (a batch that is
a larger part of the run leaves too few), and rates no lower than at 2^17 tokens, the smallest batch
of their sweep. Narrow models have heads of 64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from langwright.base import UserError
from langwright.model import ModelConfig, flops_per_token, model_config, parameter_count

REFERENCE_DEPTH = 12
REFERENCE_BATCH = 2**19
REFERENCE_WIDTH = 768
REFERENCE_DECAY = 0.28
TOKENS_PER_PARAMETER = 12.0
BATCH_POWER = 0.383
LEAST_UPDATES = 1000
LEAST_RATE_FACTOR = 0.5
LAYER_WIDTH = 64  # width for each layer of depth
DEEPEST = 80
# Peak rates at the reference: block matrices (Muon), embedding and head (Adam).
MATRIX_RATE, EMBEDDING_RATE, HEAD_RATE = 0.02, 0.3, 0.008


NEEDED = ("layers", "width", "heads")  # the dial's own; the table's are replaced


@dataclass(frozen=True)
class Dialled:
    """Settings that follow from one number."""

    shape: dict[str, int]  # layers, width, heads, and what else the preset fixes
    tokens: int
    batch_tokens: int
    lr: float
    embedding_lr: float
    head_lr: float
    weight_decay: float
    flops: float  # of the whole run
    parameters: int

    @property
    def depth(self) -> int:
        """Number of layers."""
        return self.shape["layers"]

    def settings(self) -> dict[str, dict[str, Any]]:
        """As the sections [model] and [pretrain] of a recipe."""
        return {
            "model": dict(self.shape),
            "pretrain": {
                "tokens": self.tokens,
                "batch_tokens": self.batch_tokens,
                "optimizer": {
                    "name": "muon",
                    "lr": self.lr,
                    "embedding_lr": self.embedding_lr,
                    "head_lr": self.head_lr,
                    "weight_decay": self.weight_decay,
                },
            },
        }


def dial_depth(
    depth: int,
    table: dict[str, Any],
    *,
    sequence_length: int,
    tokens_per_parameter: float = TOKENS_PER_PARAMETER,
) -> Dialled:
    """Everything for a model of `depth` layers.

    Args:
        table: the rest of the [model] section: preset, vocabulary, kinds of layers. Its own layers,
            width and heads are replaced.
        sequence_length: T; a batch holds whole rows.
        tokens_per_parameter: of training, for each of N.
    """
    config = shape_of_depth(depth, table)
    tokens = int(tokens_per_parameter * scaling_parameters(config))
    return _rates(config, tokens, table, sequence_length)


def dial_flops(
    flops: float,
    table: dict[str, Any],
    *,
    sequence_length: int,
    tokens_per_parameter: float = TOKENS_PER_PARAMETER,
) -> Dialled:
    """The deepest model whose training costs no more than `flops`, with tokens to use them up.

    Raises:
        UserError: even one layer would cost more.
    """

    def cost(depth: int) -> float:
        config = shape_of_depth(depth, table)
        tokens = tokens_per_parameter * scaling_parameters(config)
        return tokens * flops_per_token(config, sequence_length)

    if cost(1) > flops:
        raise UserError(
            "the budget is too small for this vocabulary",
            where="dial.flops",
            found=f"{flops:.2g}",
            expected=f"at least {cost(1):.2g}, which one layer takes",
            fix="a larger budget, or a smaller vocabulary",
        )
    depth = next(d for d in range(DEEPEST, 0, -1) if cost(d) <= flops)
    config = shape_of_depth(depth, table)
    tokens = int(flops / flops_per_token(config, sequence_length))
    return _rates(config, tokens, table, sequence_length)


def shape_of_depth(depth: int, table: dict[str, Any]) -> ModelConfig:
    """The model of a depth: width and heads follow.

    Raises:
        UserError: no such depth, or the rest of the table does not go with it.
    """
    if not 1 <= depth <= DEEPEST:
        raise UserError(
            "no such depth", where="dial.depth", found=depth, expected=f"1 ... {DEEPEST}"
        )
    head = 128 if depth * LAYER_WIDTH > 512 else 64
    width = -(-depth * LAYER_WIDTH // head) * head
    return model_config({**table, **_shape(depth, width, head, table)}, where="[model]")


def _shape(depth: int, width: int, head: int, table: dict[str, Any]) -> dict[str, int]:
    """Layers, width and heads; a preset's own widths and shared keys keep their proportions."""
    heads = width // head
    shape = {"layers": depth, "width": width, "heads": heads}
    if "preset" not in table:
        return shape
    preset = model_config({"preset": table["preset"]}, vocab_size=table.get("vocab_size"))
    if preset.hidden_width:
        shape["hidden_width"] = max(1, round(preset.hidden_width / preset.width * width / 64)) * 64
    if preset.head_width:
        shape["head_width"] = head
    if preset.key_heads < preset.heads:
        most = max(1, heads * preset.key_heads // preset.heads)
        shape["kv_heads"] = next(k for k in range(most, 0, -1) if heads % k == 0)
    return {name: value for name, value in shape.items() if name in NEEDED or name not in table}


def scaling_parameters(config: ModelConfig) -> int:
    """N: matrices of the blocks and the head (a tied head too), without lookup tables."""
    counts = parameter_count(config)
    head = config.vocab_size * config.width
    return counts.attention + counts.feedforward - counts.resting + head


def _rates(
    config: ModelConfig, tokens: int, table: dict[str, Any], sequence_length: int
) -> Dialled:
    """Batch, rates and decay for a model and a number of tokens."""
    reference = TOKENS_PER_PARAMETER * scaling_parameters(shape_of_depth(REFERENCE_DEPTH, table))
    batch = _batch(tokens, reference, sequence_length)
    factor = max(LEAST_RATE_FACTOR, math.sqrt(batch / REFERENCE_BATCH))
    narrow = (config.width / REFERENCE_WIDTH) ** -0.5
    decay = REFERENCE_DECAY * (batch / REFERENCE_BATCH) / factor * (reference / tokens)
    head = config.width // config.heads
    return Dialled(
        shape=_shape(config.layers, config.width, head, table),
        tokens=tokens,
        batch_tokens=batch,
        lr=_round(MATRIX_RATE * factor),
        embedding_lr=_round(EMBEDDING_RATE * factor * narrow),
        head_lr=_round(HEAD_RATE * factor * narrow),
        weight_decay=_round(decay),
        flops=tokens * flops_per_token(config, sequence_length),
        parameters=parameter_count(config).total,
    )


def _batch(tokens: int, reference: float, sequence_length: int) -> int:
    """Tokens of an update: whole rows, a power of two of them."""
    wanted = REFERENCE_BATCH * (tokens / reference) ** BATCH_POWER
    power = round(math.log2(wanted))
    power = min(power, int(math.log2(max(1.0, tokens / LEAST_UPDATES))))
    rows = max(1, 2**power // sequence_length)
    return sequence_length * 2 ** int(math.log2(rows))


def _round(value: float) -> float:
    """Four digits: enough for a setting, and readable."""
    return float(f"{value:.4g}")
