"""Why blocks have shortcuts: the gradients of a deep net with and without them.

A net of five layers 3-3-3-3-3-1 with GELU, one input, mean squared error against 0 (chapter 4 of
"Build a Large Language Model (From Scratch)"). Without shortcuts the first layers get a gradient
hundreds of times smaller; with them it stays of one size.

    python docs/learn/shortcut_gradients.py
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

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


def main() -> None:
    """Print both lists side by side."""
    plain, with_shortcuts = mean_gradients(False), mean_gradients(True)
    print(f"{'layer':>6}{'without shortcuts':>20}{'with':>12}")
    for layer, (a, b) in enumerate(zip(plain, with_shortcuts)):
        print(f"{layer:6}{a:20.7f}{b:12.5f}")


if __name__ == "__main__":
    main()
