"""From gradients to updates: optimizers, learning-rate schedules, clipping."""

from torch.optim import SGD, AdamW

from langwright.optim.build import OptimizerSet, build_optimizer
from langwright.optim.clip import clip_gradients, clip_reference, gradient_norm
from langwright.optim.config import OptimConfig, ScheduleConfig
from langwright.optim.galore import GaLore
from langwright.optim.groups import parameter_kinds
from langwright.optim.muon import Muon
from langwright.optim.orthogonal import orthogonalize
from langwright.optim.pace import Momentum, decay_share
from langwright.optim.references import AdamL2, AdamWReference
from langwright.optim.schedule import (
    fallen_share,
    learning_rate_reference,
    schedule,
    warmup_length,
)

__all__ = [
    "SGD",
    "AdamL2",
    "AdamW",
    "AdamWReference",
    "GaLore",
    "Momentum",
    "Muon",
    "OptimConfig",
    "OptimizerSet",
    "ScheduleConfig",
    "build_optimizer",
    "clip_gradients",
    "clip_reference",
    "decay_share",
    "fallen_share",
    "gradient_norm",
    "learning_rate_reference",
    "orthogonalize",
    "parameter_kinds",
    "schedule",
    "warmup_length",
]
