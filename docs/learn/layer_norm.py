"""Layer norm: each token's vector is brought to mean 0 and variance 1, by itself.

The variance is divided by D, not D - 1, and epsilon stands inside the root. Unlike batch norm it
needs no other rows: a token is treated alike in a batch of 1 and of 1,000. RMSNorm leaves out the
centring and divides by the root mean square only (Llama and most models since).

    python docs/learn/layer_norm.py              # next: activations.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import FOUR, Figure, close, same, show
from torch import Tensor, nn

from langwright.model import LayerNorm, RMSNorm

EPS = 1e-5


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(..., D) -> (..., D): weight (x - mean) / sqrt(variance + eps) + bias (Ba et al. 2016)."""
    mean = x.mean(dim=-1, keepdim=True)
    variance = (x - mean).square().mean(dim=-1, keepdim=True)  # biased: divided by D
    return weight * (x - mean) / (variance + EPS).sqrt() + bias


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """(..., D) -> (..., D): weight x / sqrt(mean(x^2) + eps) (Zhang & Sennrich 2019)."""
    return weight * x / (x.square().mean(dim=-1, keepdim=True) + EPS).sqrt()


def layer_output() -> Tensor:
    """What is to be normalised, (2, 6): a layer with ReLU on random numbers, seed 123."""
    torch.manual_seed(123)
    batch = torch.randn(2, 5)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU())(batch)


def hand_figures(x: Tensor) -> Iterator[Figure]:
    """By hand, as the book first does it: with the variance divided by D - 1."""
    printed = [[0.2260, 0.3470, 0, 0.2216, 0, 0], [0.2133, 0.2394, 0, 0.5198, 0.3297, 0]]
    yield close("the layer's output", x, printed, FOUR)
    mean, variance = x.mean(dim=-1, keepdim=True), x.var(dim=-1, keepdim=True)
    yield close("means", mean, [0.1324, 0.2170], FOUR)
    yield close("variances, divided by D - 1", variance, [0.0231, 0.0398], FOUR)
    yield close("variance of row 1, divided by D", x[0].var(unbiased=False), 0.0192, FOUR)
    normalised = (x - mean) / variance.sqrt()
    printed = [[0.6159, 1.4126, -0.8719, 0.5872, -0.8719, -0.8719]]
    yield close("row 1, normalised", normalised[:1], printed, FOUR)
    yield same("means afterwards", normalised.mean(dim=-1), torch.zeros(2))
    yield same("variances afterwards", normalised.var(dim=-1), torch.ones(2))


def batch_figures(x: Tensor) -> Iterator[Figure]:
    """Layer norm does not look at other rows; batch norm does."""
    ones, zeros = torch.ones(6), torch.zeros(6)
    alone = layer_norm(x[:1], ones, zeros)
    yield same("row 1 alone and in the batch", alone, layer_norm(x, ones, zeros)[:1], 0.0)
    batch_norm = nn.BatchNorm1d(6, affine=False)
    other = torch.cat((x[:1], 2 * x[1:]))
    moved = (batch_norm(x)[0] - batch_norm(other)[0]).abs().max().item() > 0.1
    yield Figure("batch norm: row 1 moves when row 2 does", [moved], [True])


def figures() -> Iterator[Figure]:
    """By hand, one row or many, and Langwright's forms with weights that are not 1 and 0."""
    x = layer_output().detach()
    yield from hand_figures(x)
    yield from batch_figures(x)
    yield same(
        "a row of equal numbers",
        layer_norm(torch.full((1, 6), 3.0), torch.ones(6), torch.zeros(6)),
        torch.zeros(1, 6),
    )

    # In Langwright: `LayerNorm` and `RMSNorm`, chosen by the config's `norm`.
    weight, bias = torch.linspace(0.5, 1.5, 6), torch.linspace(-1, 1, 6)
    norm = LayerNorm(6, EPS, affine=True, bias=True)
    norm.load_state_dict({"weight": weight, "bias": bias})
    yield same("langwright.model.LayerNorm", norm(x), layer_norm(x, weight, bias))
    root = RMSNorm(6, EPS, affine=True)
    root.load_state_dict({"weight": weight})
    yield same("langwright.model.RMSNorm", root(x), rms_norm(x, weight))


if __name__ == "__main__":
    sys.exit(show(figures()))
