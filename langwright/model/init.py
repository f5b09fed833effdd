"""How parameters start.

Each parameter draws from its own generator, seeded by (seed, its name), on the CPU: the same
weights on every device and layout, and adding a layer changes no other.
"""

from __future__ import annotations

import torch
from torch import nn

from langwright.base import seed_for
from langwright.model.backout import BACKOUT_START
from langwright.model.config import ModelConfig
from langwright.model.residual_scalars import SKIP_START, STREAM_START

RESIDUAL_OUTPUTS = (
    ".attention.out.weight",
    ".feedforward.down.weight",
    ".feedforward.down",  # of experts, (E, D, F)
    ".feedforward.shared.down.weight",
)
VALUE_TABLE = ".values.table.weight"
VALUE_GATE = ".values.gate.weight"
TABLES = ("tokens.weight", "positions.weight", ".attention.bias")  # looked up: no fan-in


def initial_std(config: ModelConfig, name: str, fan_in: int) -> float:
    """Standard deviation of the normal that matrix `name` is drawn from; 0: it starts at zero.

    "gpt2": 0.02 everywhere; the matrices that write to the residual stream 0.02 / sqrt(2 layers),
    so that the stream's variance does not grow with depth (Radford et al. 2019, section 2.3).

    "modern": 1 / sqrt(fan_in), which keeps a unit-variance input at unit variance (LeCun et al.
    1998), the head too; the matrices that write to the residual stream start at zero, so that each
    block starts as the identity (Zhang et al. 2019, arXiv:1901.09321). The embeddings, and so a
    tied head, and other tables take `init_std` (0.02). An untied head at zero, as some recipes have
    it, learned slower here: 2.18 against 1.95 nats after 200 steps of AdamW on Shakespeare's
    characters.
    """
    if name.endswith(VALUE_GATE):  # all gates half open; the heads differ by their tables already
        return 0.0
    if config.init == "gpt2":
        std = config.init_std or 0.02
        return std / (2 * config.layers) ** 0.5 if name.endswith(RESIDUAL_OUTPUTS) else std
    if name.endswith(VALUE_TABLE):  # it is added to values made with a fan-in of D
        return config.width**-0.5
    if name.endswith(TABLES):
        return config.init_std or 0.02
    return 0.0 if name.endswith(RESIDUAL_OUTPUTS) else fan_in**-0.5


def initial_constant(config: ModelConfig, name: str) -> float:
    """What every number of vector `name` starts as."""
    if name.endswith("norm.weight"):
        return 0.0 if config.norm_offset else 1.0
    if name == "backout.scale":
        return BACKOUT_START
    if name.endswith((".residual.stream", ".residual.skip")):
        first, last = STREAM_START if name.endswith("stream") else SKIP_START
        return first + (last - first) * int(name.split(".")[1]) / max(1, config.layers - 1)
    return 0.0


@torch.no_grad()
def initialise(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fill every parameter: vectors as `initial_constant` says (norm scales 1, biases and attention
    sinks 0), matrices, an expert's each, as `initial_std` says."""
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.fill_(initial_constant(config, name))
            continue
        std = initial_std(config, name, parameter.shape[-1])
        if std == 0.0:
            parameter.zero_()
            continue
        generator = torch.Generator().manual_seed(seed_for(seed, name))
        drawn = torch.empty(parameter.shape).normal_(0.0, std, generator=generator)
        parameter.copy_(drawn)
