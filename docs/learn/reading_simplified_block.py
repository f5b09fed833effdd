"""Reading: a block without values and output projection still learns.

Of attention's four matrices, queries and keys decide who looks at whom; values and the output
projection only change what is carried over. He and Hofmann ("Simplifying Transformer Blocks",
2023, arXiv:2311.01906) find that those two can be fixed to the identity: what is carried over is
the input itself, the feed-forward does the changing, and the model trains about as well with half
of attention's weights. (Their block also drops the shortcuts, with attention that starts near the
identity; that part is not shown here.)

In Langwright nothing new is needed: the two matrices are set to the identity and frozen. The
third model below shows that attention still matters: its output is frozen at zero.

    python docs/learn/reading_simplified_block.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from figures import Figure, close, same, show
from optimizer_state import small_model, text_rows, updates
from torch import Tensor, nn

from langwright.evaluate import evaluate_rows
from langwright.model import Transformer
from langwright.optim import OptimConfig, build_optimizer

UPDATES = 200


def fix(layer: nn.Module, value: Tensor) -> None:
    """Set a layer's matrix and train it no more."""
    with torch.no_grad():
        layer.weight.copy_(value)
    layer.weight.requires_grad_(False)


def model_of(kind: str) -> Transformer:
    """The kinds: "whole"; "simplified", values and output the identity; "blind", no attention."""
    model = small_model()
    for block in model.blocks:
        attention = block.attention
        if kind == "simplified":
            fix(attention.v, torch.eye(model.config.width))
            fix(attention.out, torch.eye(model.config.width))
        if kind == "blind":
            fix(attention.out, torch.zeros(model.config.width, model.config.width))
    return model


def trainable(module: nn.Module) -> int:
    """Weights that training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def carried_over() -> Figure:
    """The first token sees itself alone, so the simplified attention gives back its input."""
    model, seen = model_of("simplified"), {}
    attention = model.blocks[0].attention
    attention.register_forward_hook(lambda _, args, output: seen.update(x=args[0], y=output))
    model(torch.arange(8)[None])
    return same("the first token is carried over as it is", seen["y"][:, 0], seen["x"][:, 0])


def validation_loss(model: Transformer) -> float:
    """Nats per byte of held-out text after UPDATES updates."""
    rows, held_out = text_rows()
    optimizer = build_optimizer(model, OptimConfig(name="adamw", lr=2e-3, betas=(0.9, 0.99)))
    updates(model, optimizer, rows, 0, UPDATES)
    return evaluate_rows(model, held_out).nats_per_token


def figures() -> Iterator[Figure]:
    """Weights and losses of the three."""
    models = {kind: model_of(kind) for kind in ("whole", "simplified", "blind")}
    width = models["whole"].config.width
    counts = [trainable(models[kind].blocks[0].attention) for kind in ("whole", "simplified")]
    yield close("attention's weights, whole and simplified", counts, [4 * width**2, 2 * width**2])
    yield carried_over()
    losses = {kind: validation_loss(model) for kind, model in models.items()}
    for kind, loss in losses.items():
        print(f"    {kind:<12}{loss:.3f} nats per byte after {UPDATES} updates")
    works = losses["simplified"] < losses["whole"] + 0.15
    yield close("simplified is about as good as whole", works, True)
    matters = losses["blind"] > losses["simplified"] + 0.08
    yield close("without attention it is clearly worse", matters, True)


if __name__ == "__main__":
    sys.exit(show(figures()))
