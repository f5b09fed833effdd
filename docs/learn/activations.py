"""The bend between two matrices: ReLU, GELU in its two forms, and gates.

Without it, two linear layers would be one. ReLU cuts at 0; GELU is x times the chance that a normal
number is below x, so it bends smoothly and lets a little of the negative side through. GPT-2 was
trained with a tanh approximation of it. SwiGLU is not an activation but a small network: one
matrix's output, through SiLU, gates another's.

    python docs/learn/activations.py                    # next: shortcut_gradients.py
    python docs/learn/activations.py --plot curves.svg  # GELU and ReLU on 100 points of [-3, 3]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from figures import Figure, close, same, show
from torch import Tensor, nn

from langwright.base import Series, line_chart
from langwright.model import ModelConfig, Transformer, build_model


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return x * (x > 0)


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), Phi the normal distribution (Hendrycks & Gimpel 2016)."""
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def gelu_tanh(x: Tensor) -> Tensor:
    """The approximation: x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))."""
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), also called swish."""
    return x / (1 + torch.exp(-x))


def feedforward(x: Tensor, up: nn.Linear, down: nn.Linear) -> Tensor:
    """down(gelu(up(x))): D -> 4 D -> D, each token by itself, whatever the batch and length."""
    return down(gelu_tanh(up(x)))


def swiglu(x: Tensor, gate: nn.Linear, up: nn.Linear, down: nn.Linear) -> Tensor:
    """down(silu(gate(x)) * up(x)) (Shazeer 2020)."""
    return down(silu(gate(x)) * up(x))


def curve_figures() -> Iterator[Figure]:
    """Values of both GELUs, how far apart they are, and where they are lowest."""
    x = torch.tensor([-1.0, 0.5, 1.0, 3.0], dtype=torch.float64)
    yield close(
        "GELU, tanh form, at -1, 0.5, 1, 3",
        gelu_tanh(x),
        [-0.15881, 0.34571, 0.84119, 2.99636],
        5.1e-6,
    )
    yield close("GELU, exact", gelu(x), [-0.15866, 0.34573, 0.84134, 2.99595], 5.1e-6)
    grid = torch.linspace(-6, 6, 120_001, dtype=torch.float64)
    gap = (gelu(grid) - gelu_tanh(grid)).abs().max()
    yield close("largest gap on [-6, 6]", gap, 5e-4, 5e-5)
    lowest = gelu(grid).argmin()
    yield close("lowest at", grid[lowest], -0.752, 5e-4)
    yield close("lowest value", gelu(grid)[lowest], -0.170, 5e-4)
    yield close("ReLU at -1, 0.5", relu(x[:2]), [0.0, 0.5])
    for name, function, library in [
        ("ReLU", relu, nn.functional.relu),
        ("GELU", gelu, nn.functional.gelu),
        ("GELU, tanh", gelu_tanh, lambda x: nn.functional.gelu(x, approximate="tanh")),
        ("SiLU", silu, nn.functional.silu),
    ]:
        yield same(f"torch's {name}", library(grid), function(grid), 1e-12)


def one_block(**fields: object) -> Transformer:
    """Langwright's transformer with one block of width 24."""
    sizes = {"vocab_size": 50, "width": 24, "layers": 1, "heads": 3, "context_length": 16}
    return build_model(ModelConfig.parse({**sizes, **fields})).eval()


def library_figures() -> Iterator[Figure]:
    """In Langwright: `blocks[i].feedforward`, chosen by the config's `feedforward`."""
    x = 30 * torch.randn(2, 7, 24)  # the weights start small: far enough from 0 to see the bend
    plain = one_block(feedforward="gelu_tanh", feedforward_bias=True).blocks[0].feedforward
    yield close("hidden width", plain.up.out_features, 4 * 24)
    expected = feedforward(x, plain.up, plain.down)
    yield same("langwright.model, gelu_tanh", plain(x), expected, 5e-6)
    gated = one_block(feedforward="swiglu").blocks[0].feedforward
    expected = swiglu(x, gated.gate, gated.up, gated.down)
    yield same("langwright.model, swiglu", gated(x), expected, 5e-6)


def shape_figures() -> Iterator[Figure]:
    """GPT-2's feed-forward keeps the shape and has 8 D^2 + 5 D parameters."""
    up, down = nn.Linear(768, 4 * 768), nn.Linear(4 * 768, 768)
    x = torch.randn(2, 3, 768)
    yield close("width inside", up(x).shape, [2, 3, 3072])
    yield close("shape out", feedforward(x, up, down).shape, [2, 3, 768])
    count = sum(p.numel() for layer in (up, down) for p in layer.parameters())
    yield close("parameters, and 8 D^2 + 5 D", [count, 8 * 768**2 + 5 * 768], [4_722_432] * 2)


def plot() -> str:
    """The two curves on 100 points, as an SVG."""
    x = torch.linspace(-3, 3, 100)
    curves = {"GELU": gelu_tanh(x), "ReLU": relu(x)}
    lines = [Series(name, x.tolist(), y.tolist()) for name, y in curves.items()]
    return line_chart(lines, title="GELU and ReLU")


def figures() -> Iterator[Figure]:
    """The curves, the feed-forward and Langwright's forms."""
    yield from curve_figures()
    yield from shape_figures()
    yield from library_figures()


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; 1 if one differs."""
    parser = argparse.ArgumentParser(description="ReLU, GELU and the feed-forward.")
    parser.add_argument("--plot", type=Path, help="write the curves to this SVG file")
    options = parser.parse_args(arguments)
    if options.plot:
        options.plot.write_text(plot(), encoding="utf-8")
    return show(figures())


if __name__ == "__main__":
    sys.exit(main())
