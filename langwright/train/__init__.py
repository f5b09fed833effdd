"""The training loop: objective, accumulation, precision, looks on the way, checkpoints, resume."""

from langwright.train.checkpoint import Checkpoint, newest_checkpoint, open_checkpoint
from langwright.train.config import PretrainConfig, TrainConfig
from langwright.train.consolidate import consolidate, is_checkpoint
from langwright.train.loss_scale import LossScale
from langwright.train.metrics import History, MetricsLog
from langwright.train.objective import Objective, language_model_loss
from langwright.train.pretrain import pretrain
from langwright.train.trainer import Trainer
from langwright.train.training_job import training_job
from langwright.train.update import Outcome, Updater

__all__ = [
    "Checkpoint",
    "History",
    "LossScale",
    "MetricsLog",
    "Objective",
    "Outcome",
    "PretrainConfig",
    "TrainConfig",
    "Trainer",
    "Updater",
    "consolidate",
    "is_checkpoint",
    "language_model_loss",
    "newest_checkpoint",
    "open_checkpoint",
    "pretrain",
    "training_job",
]
