"""Why blocks have shortcuts: the gradients of a deep net with and without them.

A net of five layers 3-3-3-3-3-1 with GELU, one input, mean squared error against 0 (chapter 4 of
"Build a Large Language Model (From Scratch)"). Without shortcuts the first layers get a gradient
hundreds of times smaller; with them it stays of one size.

    python docs/learn/shortcut_gradients.py      # next: transformer_block.py
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, same, show
from torch import Tensor, nn

from langwright.model import ModelConfig, build_model

SIZES = [3, 3, 3, 3, 3, 1]


class DeepNet(nn.Module):
    """x (B, 3) to (B, 1); a layer's input is added to its output where both are equally wide."""

    def __init__(self, shortcuts: bool) -> None:
        super().__init__()
        self.shortcuts = shortcuts
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(SIZES))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            y = nn.functional.gelu(layer(x), approximate="tanh")
            x = x + y if self.shortcuts and x.shape == y.shape else y
        return x


def mean_gradients(shortcuts: bool) -> list[float]:
    """Mean absolute gradient of each layer's weights, first layer first; seed 123."""
    torch.manual_seed(123)
    net = DeepNet(shortcuts)
    output = net(torch.tensor([[1.0, 0.0, -1.0]]))
    nn.functional.mse_loss(output, torch.tensor([[0.0]])).backward()
    matrices = [parameter for parameter in net.parameters() if parameter.ndim == 2]
    return [float(weight.grad.abs().mean()) for weight in matrices if weight.grad is not None]


def block_gradient(scale: float) -> Tensor:
    """How the sum of a block's output changes with its input, (1, 8, 24): the matrices that lead
    out of the block's two branches are multiplied by `scale`."""
    sizes = {"vocab_size": 50, "width": 24, "layers": 1, "heads": 3, "norm_placement": "pre"}
    model = build_model(ModelConfig.parse(sizes))
    block = model.blocks[0]
    block.attention.out.weight.data.mul_(scale)
    block.feedforward.down.weight.data.mul_(scale)
    seen: list[tuple[Tensor, Tensor]] = []
    block.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    model(torch.arange(8)[None])
    x, y = seen[0]
    return torch.autograd.grad(y.sum(), x)[0]


def figures() -> Iterator[Figure]:
    """Both lists, and Langwright's block: what its shortcut alone lets through is 1."""
    printed = [2.0174e-4, 1.2011e-4, 7.1520e-4, 1.39887e-3, 5.04965e-3]
    for layer, (found, expected) in enumerate(zip(mean_gradients(shortcuts=False), printed)):
        yield close(f"layer {layer}, without shortcuts", found, expected, 1e-4 * expected)
    printed = [0.22170, 0.20694, 0.32897, 0.26657, 1.32585]
    yield close("layers 0-4, with shortcuts", mean_gradients(shortcuts=True), printed, 5.1e-6)

    # In Langwright: every block adds to its input. With silent branches the gradient is 1.
    ones = torch.ones(1, 8, 24)
    yield same("langwright.model.Block, branches silent", block_gradient(0.0), ones)
    moved = (block_gradient(1.0) - ones).abs().max().item()
    yield Figure("and not silent: it moves", [moved > 1e-3], [True])


if __name__ == "__main__":
    sys.exit(show(figures()))
