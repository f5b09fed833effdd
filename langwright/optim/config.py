"""What a person can set about the optimizer and its learning-rate schedule."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from langwright.base import Config

# Peak learning rates that work untuned for small transformers. For Muon the rate belongs to the
# block matrices; the rest of the model gets a share of it (see `OptimConfig.rate`).
DEFAULT_LR = {"adamw": 1e-3, "adamw_reference": 1e-3, "adam_l2": 1e-3, "muon": 0.02, "sgd": 0.1}
MUON_SHARES = {"matrix": 1.0, "embedding": 0.25, "head": 0.2, "scalar": 0.5}


class OptimConfig(Config):
    """Which optimizer moves the weights, and how far."""

    name: Literal["adamw", "muon", "sgd", "adamw_reference", "adam_l2"] = Field(
        "adamw", description="optimizer; muon takes the block matrices and leaves the rest to AdamW"
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
    betas: tuple[float, float] = Field(
        (0.9, 0.95), description="decay of the running mean and square of the gradient (Adam)"
    )
    eps: float = Field(1e-8, description="added to the root of the second moment (Adam)", gt=0)
    weight_decay: float = Field(
        0.1, description="decoupled decay of matrices; 1-D parameters are never decayed", ge=0
    )
    embedding_weight_decay: float | None = Field(
        None, description="decay of embeddings and head; none: weight_decay, or 0 with muon", ge=0
    )
    momentum: float | None = Field(
        None, description="momentum of muon (none: 0.95) or sgd (none: 0)", ge=0, lt=1
    )
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

    @property
    def peak_lr(self) -> float:
        """The main learning rate."""
        return DEFAULT_LR[self.name] if self.lr is None else self.lr

    def rate(self, kind: str) -> float:
        """Peak learning rate of a kind of parameter: matrix, embedding, head or scalar."""
        own = {"embedding": self.embedding_lr, "head": self.head_lr, "scalar": self.scalar_lr}
        given = own.get(kind)
        if given is not None:
            return given
        # With AdamW-sized updates muon and AdamW share one rate (Moonlight, arXiv 2502.16982).
        shared = self.name != "muon" or self.muon_scale == "adamw_rms"
        return self.peak_lr * (1.0 if shared else MUON_SHARES[kind])

    def decay(self, kind: str) -> float:
        """Weight decay of a kind of parameter."""
        if kind == "scalar":
            return 0.0
        if kind == "matrix":
            return self.weight_decay
        if self.embedding_weight_decay is not None:
            return self.embedding_weight_decay
        return 0.0 if self.name == "muon" else self.weight_decay


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
