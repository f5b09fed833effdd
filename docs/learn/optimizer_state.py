"""What it costs to lose the optimizer's state when a run is continued.

AdamW keeps two running means for every weight. A checkpoint without them restores the weights
exactly and still spoils the run: with empty means the first updates go in the direction of a few
noisy batches, each weight moving by the full learning rate. This trains a small model on the help
text of Python itself, stops in the middle, and continues three times: as if nothing had happened,
from a saved state, and from the weights alone.

    python docs/learn/optimizer_state.py
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from langwright.dataset import RandomChunkRows, WindowRows
from langwright.evaluate import evaluate_rows
from langwright.model import ModelConfig, Transformer, build_model
from langwright.optim import OptimConfig, OptimizerSet, build_optimizer

LENGTH, ROWS = 32, 16
BEFORE, AFTER = 200, 40  # updates before and after the interruption
TEXT_BYTES = 200_000


@dataclass(frozen=True)
class Curves:
    """Validation loss (nats per byte) before update 0, 1, 2 ... after the interruption."""

    straight: list[float]
    with_state: list[float]
    without_state: list[float]

    @property
    def bump(self) -> float:
        """The most that the run without state lies above the one that was not interrupted."""
        return max(lost - kept for lost, kept in zip(self.without_state, self.straight))


def text_rows() -> tuple[RandomChunkRows, WindowRows]:
    """Bytes of Python's own help text as tokens: rows to train on, and rows held out."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics)).encode("utf-8")
    ids = list(text[:TEXT_BYTES])
    cut = int(0.9 * len(ids))
    held_out = ids[cut : cut + 48 * LENGTH + 1]
    return RandomChunkRows(ids[:cut], LENGTH), WindowRows(held_out, LENGTH, shuffle=False)


def small_model() -> Transformer:
    """About 120,000 parameters over bytes."""
    config = ModelConfig(vocab_size=256, context_length=LENGTH, width=64, layers=2, heads=4)
    return build_model(config, seed=0)


def updates(
    model: Transformer, optimizer: OptimizerSet, rows: RandomChunkRows, first: int, count: int
) -> None:
    """Updates number `first` to `first + count - 1`; the batch depends on the number only."""
    model.train()
    for step in range(first, first + count):
        batch = rows.batch(step * ROWS, ROWS)
        loss, weight = model.loss(batch.inputs, batch.targets)
        optimizer.zero_grad()
        (loss / weight).backward()
        optimizer.step()


def continued(
    model: Transformer, optimizer: OptimizerSet, rows: RandomChunkRows, held_out: WindowRows
) -> list[float]:
    """Validation loss before the first update after the interruption and after each one."""
    losses = [evaluate_rows(model, held_out).nats_per_token]
    for step in range(BEFORE, BEFORE + AFTER):
        updates(model, optimizer, rows, step, 1)
        losses.append(evaluate_rows(model, held_out).nats_per_token)
    return losses


def run() -> Curves:
    """Train, interrupt, continue in three ways."""
    config = OptimConfig(name="adamw", lr=3e-3, betas=(0.9, 0.999))
    rows, held_out = text_rows()
    model = small_model()
    optimizer = build_optimizer(model, config)
    updates(model, optimizer, rows, 0, BEFORE)
    weights = copy.deepcopy(model.state_dict())
    state = copy.deepcopy(optimizer.state_dict())
    curves = {"straight": continued(model, optimizer, rows, held_out)}
    for name in ("with_state", "without_state"):
        fresh = small_model()
        fresh.load_state_dict(weights)
        optimizer = build_optimizer(fresh, config)
        if name == "with_state":
            optimizer.load_state_dict(state)
        curves[name] = continued(fresh, optimizer, rows, held_out)
    return Curves(**curves)


def main() -> None:
    """Print the three curves side by side."""
    torch.manual_seed(0)
    curves = run()
    print(f"validation loss in nats per byte after an interruption at update {BEFORE}\n")
    print(f"{'updates since':>14}{'not interrupted':>18}{'with state':>14}{'without state':>16}")
    for step in [0, 1, 2, 3, 5, 8, 12, 20, 30, AFTER]:
        line = (curves.straight[step], curves.with_state[step], curves.without_state[step])
        print(f"{step:14}{line[0]:18.4f}{line[1]:14.4f}{line[2]:16.4f}")
    print(
        f"\nwithout its state the loss is up to {curves.bump:.3f} nats higher, then it catches up"
    )


if __name__ == "__main__":
    main()
