"""What a person can set about the optimizer and its learning-rate schedule."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from langwright.base import Config
from langwright.optim.groups import UNDECAYED

# Peak learning rates that work untuned for small transformers. For Muon the rate belongs to the
# block matrices; the rest of the model gets a share of it (see `OptimConfig.rate`).
DEFAULT_LR = {
    "adamw": 1e-3,
    "adamw_reference": 1e-3,
    "adam_l2": 1e-3,
    "galore": 1e-2,
    "muon": 0.02,
    "sgd": 0.1,
}
MUON_SHARES = {"matrix": 1.0, "embedding": 0.25, "head": 0.2, "scalar": 0.5, "skip": 25.0}
# Kinds that follow another one, and their part of its rate (nanochat's optimizer, July 2026: value
# tables 0.15 beside embeddings 0.3; skip 0.5, stream 0.005, smear and backout 0.2). The stream's
# factors multiply through all layers, so each must move little.
FOLLOWERS = {"value": ("embedding", 0.5), "stream": ("skip", 0.01), "mix": ("skip", 0.4)}


class OptimConfig(Config):
    """Which optimizer moves the weights, and how far."""

    name: Literal["adamw", "muon", "galore", "sgd", "adamw_reference", "adam_l2"] = Field(
        "adamw",
        description="optimizer; muon and galore take the block matrices and leave the rest to "
        "AdamW",
    )
    lr: float | None = Field(
        None, description="peak learning rate (of the matrices, for muon); none: by optimizer", gt=0
    )
    embedding_lr: float | None = Field(
        None, description="peak rate of the embeddings; none: lr, or 0.25 lr with muon", gt=0
    )
    head_lr: float | None = Field(
        None, description="peak rate of the output head; none: lr, or 0.2 lr with muon", gt=0
    )
    scalar_lr: float | None = Field(
        None, description="peak rate of norms and biases; none: lr, or 0.5 lr with muon", gt=0
    )
    value_lr: float | None = Field(
        None, description="peak rate of value embeddings' tables; none: half of embedding_lr", gt=0
    )
    skip_lr: float | None = Field(
        None,
        description="peak rate of the residual scalars' skip, the stream's having 0.01 of it, "
        "smear and backout 0.4; none: lr, or 25 lr with muon",
        gt=0,
    )
    betas: tuple[float, float] = Field(
        (0.9, 0.95), description="decay of the running mean and square of the gradient (Adam)"
    )
    embedding_betas: tuple[float, float] | None = Field(
        None, description="betas of the embeddings and value tables (Adam); none: betas"
    )
    head_betas: tuple[float, float] | None = Field(
        None, description="betas of the output head (Adam); none: betas"
    )
    scalar_betas: tuple[float, float] | None = Field(
        None, description="betas of norms and biases (Adam); none: betas"
    )
    skip_betas: tuple[float, float] | None = Field(
        None, description="betas of the residual scalars' skip (Adam); none: betas"
    )
    eps: float = Field(1e-8, description="added to the root of the second moment (Adam)", gt=0)
    weight_decay: float = Field(
        0.1, description="decoupled decay of matrices; 1-D parameters are never decayed", ge=0
    )
    embedding_weight_decay: float | None = Field(
        None, description="decay of embeddings and head; none: weight_decay, or 0 with muon", ge=0
    )
    head_weight_decay: float | None = Field(
        None, description="decay of the output head; none: as the embeddings", ge=0
    )
    weight_decay_schedule: Literal["constant", "linear", "cosine", "rate"] = Field(
        "constant",
        description="how the decay goes on over the run: constant, falling to 0 in a line or a "
        "half cosine, or in proportion to the learning rate's multiplier",
    )
    momentum: float | None = Field(
        None, description="momentum of muon (none: 0.95) or sgd (none: 0)", ge=0, lt=1
    )
    momentum_start: float | None = Field(
        None, description="momentum of the first update, rising from there; none: momentum",
        ge=0, lt=1,
    )  # fmt: skip
    momentum_warmup_steps: int = Field(
        300, description="updates in which momentum_start rises to momentum", ge=1
    )
    momentum_end: float | None = Field(
        None, description="momentum at the end, reached as the rate falls; none: momentum",
        ge=0, lt=1,
    )  # fmt: skip
    nesterov: bool = Field(True, description="look one momentum step ahead (muon, and sgd if > 0)")
    orthogonal_steps: int = Field(
        5, description="iterations that make muon's update orthogonal", ge=1, le=12
    )
    orthogonal_method: Literal["polar_express", "jordan"] = Field(
        "polar_express", description="polynomials of these iterations"
    )
    muon_scale: Literal["spectral", "adamw_rms"] = Field(
        "spectral",
        description="muon's factor by shape: sqrt(max(1, rows/columns)), or AdamW's size of update",
    )
    cautious_decay: bool = Field(
        False, description="muon: decay a weight only where the update also shrinks it"
    )
    equal_rows: bool = Field(
        False, description="muon: give all rows one length before they are made orthogonal (MuonEq)"
    )
    neuron_scaling: bool = Field(
        False, description="muon: divide each neuron's update by its usual size (NorMuon)"
    )
    neuron_beta: float = Field(
        0.95, description="decay of the running size that neuron_scaling divides by", ge=0, lt=1
    )
    galore_rank: int = Field(
        128, description="galore: dimensions of the space in which the moments are kept", ge=1
    )
    galore_every: int = Field(
        200, description="galore: updates until that space is chosen anew", ge=1
    )
    galore_scale: float = Field(
        0.25, description="galore: factor on the update when it comes back to full size", gt=0
    )

    @model_validator(mode="after")
    def _has_momentum(self) -> OptimConfig:
        changed = self.momentum_start is not None or self.momentum_end is not None
        if changed and self.name not in ("muon", "sgd"):
            raise ValueError(f"{self.name} has no momentum that could change over the run")
        return self

    @property
    def peak_lr(self) -> float:
        """The main learning rate."""
        return DEFAULT_LR[self.name] if self.lr is None else self.lr

    def rate(self, kind: str) -> float:
        """Peak learning rate of a kind of parameter, one of `KINDS`."""
        own = {
            "embedding": self.embedding_lr,
            "head": self.head_lr,
            "scalar": self.scalar_lr,
            "value": self.value_lr,
            "skip": self.skip_lr,
        }
        given = own.get(kind)
        if given is not None:
            return given
        if kind in FOLLOWERS:
            leader, part = FOLLOWERS[kind]
            return part * self.rate(leader)
        # With AdamW-sized updates muon and AdamW share one rate (Moonlight, arXiv 2502.16982).
        shared = self.name != "muon" or self.muon_scale == "adamw_rms"
        return self.peak_lr * (1.0 if shared else MUON_SHARES[kind])

    def decay(self, kind: str) -> float:
        """Weight decay of a kind of parameter."""
        if kind in UNDECAYED:
            return 0.0
        if kind == "matrix":
            return self.weight_decay
        if kind == "head" and self.head_weight_decay is not None:
            return self.head_weight_decay
        if self.embedding_weight_decay is not None:
            return self.embedding_weight_decay
        return 0.0 if self.name == "muon" else self.weight_decay

    def betas_of(self, kind: str) -> tuple[float, float]:
        """Adam's betas of a kind of parameter."""
        own = {
            "embedding": self.embedding_betas,
            "head": self.head_betas,
            "scalar": self.scalar_betas,
            "value": self.embedding_betas,
            "skip": self.skip_betas,
        }
        return own.get(kind) or self.betas


class ScheduleConfig(Config):
    """How the learning rate changes over the run: warm-up, then one of four shapes."""

    kind: Literal["cosine", "linear", "wsd", "constant"] = Field(
        "cosine", description="shape after the warm-up; wsd stays flat and falls at the end"
    )
    warmup_steps: int | None = Field(
        None, description="steps of linear warm-up; none: warmup_fraction of the run", ge=0
    )
    warmup_fraction: float = Field(
        0.02, description="share of the run spent warming up, if warmup_steps is none", ge=0, lt=1
    )
    start: float = Field(
        0.0, description="share of the peak rate from which the warm-up rises", ge=0, le=1
    )
    floor: float = Field(
        0.1, description="share of the peak rate at which the run ends", ge=0, le=1
    )
    decay_fraction: float = Field(
        0.3, description="wsd: share of the run in which the rate falls, at its end", gt=0, le=1
    )
