"""The feed-forward half of a block: each token by itself, wide in the middle."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from langwright.model.config import ModelConfig
from langwright.model.linear import Linear
from langwright.model.sliced_gelu import sliced_gelu, slicing_pays


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's approximation: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    if torch.compiler.is_compiling() and x.device.type == "cpu":
        # (1 + tanh u) / 2 = sigmoid(2 u): an exponential takes a third of a hyperbolic tangent.
        return x * _Sigmoid.apply(math.sqrt(8 / math.pi) * (x + 0.044715 * x * x * x))
    return sliced_gelu(x) if slicing_pays(x) else F.gelu(x, approximate="tanh")


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x). Spelt out for the compiler: the backward pass then has one exponential, not
    one in the function made again and another in torch's rule for its derivative."""
    return x * _Sigmoid.apply(x) if torch.compiler.is_compiling() else F.silu(x)


class _Sigmoid(torch.autograd.Function):
    """1 / (1 + 2^(-x log2 e)): compiled for a CPU, 2^x takes half the time of e^x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        y = 1 / (1 + torch.exp2(x * -math.log2(math.e)))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (y,) = ctx.saved_tensors
        return grads[0] * y * (1 - y)


def relu2(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021, "Primer", arXiv:2109.08668)."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,  # x * Phi(x), exact (Hendrycks & Gimpel 2016, arXiv:1606.08415)
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
    "relu2": relu2,
    "silu": silu,
    "swiglu": silu,  # of the gate
    "geglu": F.gelu,  # of the gate
    "geglu_tanh": gelu_tanh,  # of the gate
}


class FeedForward(nn.Module):
    """down(act(up(x))): D -> hidden -> D (Vaswani et al. 2017, eq. 2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = Linear(config.width, config.hidden_size, bias=config.feedforward_bias)
        self.down = Linear(config.hidden_size, config.width, bias=config.feedforward_bias)
        self.activation = ACTIVATIONS[config.feedforward]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.down(self.activation(self.up(x)))


class GatedFeedForward(nn.Module):
    """down(act(gate(x)) * up(x)): SwiGLU and GEGLU (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def __init__(self, config: ModelConfig, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(config.width, hidden, bias=config.feedforward_bias)
        self.up = Linear(config.width, hidden, bias=config.feedforward_bias)
        self.down = Linear(hidden, config.width, bias=config.feedforward_bias)
        self.activation = ACTIVATIONS[config.feedforward]
        self.joined: nn.Module | None = None  # in place of gate and up: both at once

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        gate, up = (self.gate(x), self.up(x)) if self.joined is None else self.joined(x)
        return self.down(self.activation(gate) * up)


def build_feedforward(config: ModelConfig) -> FeedForward | GatedFeedForward:
    """The config's feed-forward of a layer without experts."""
    return GatedFeedForward(config, config.hidden_size) if config.gated else FeedForward(config)
