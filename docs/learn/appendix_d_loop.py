"""The loop with warm-up, cosine decay and clipping, on a model that trains in seconds.

The book's appendix D adds three things to its training loop: the learning rate rises linearly
over the first 20 % of the steps, then falls along half a cosine; and gradients are shortened to
a global norm of 1. This runs its 15 epochs of 9 steps twice from the same weights: once with the
readable references (`AdamWReference`, `learning_rate_reference`, `clip_reference`), once with
what the library trains with (`AdamW`, `schedule`, `clip_gradients`). The curves must agree.

    python docs/learn/appendix_d_loop.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from story_fixture import BookConfig, BookGPT, batch_loss
from torch import Tensor, nn

from langwright.optim import (
    AdamW,
    AdamWReference,
    ScheduleConfig,
    clip_gradients,
    clip_reference,
    learning_rate_reference,
    schedule,
)

EPOCHS, STEPS_PER_EPOCH, ROWS, LENGTH = 15, 9, 2, 64
TOTAL = EPOCHS * STEPS_PER_EPOCH  # 135 updates
WARMUP = int(0.2 * TOTAL)  # 27 of them
START, PEAK, FLOOR = 1e-4, 1e-3, 1e-4
MAX_NORM = 1.0
DECAY = 0.1


def book_rate(step: int) -> float:
    """Appendix D's rate at `step`: from START in equal increments to PEAK, then a cosine."""
    if step < WARMUP:
        return START + step * (PEAK - START) / WARMUP
    done = (step - WARMUP) / (TOTAL - WARMUP)
    return FLOOR + (PEAK - FLOOR) * 0.5 * (1 + math.cos(math.pi * done))


def largest_gradient(model: nn.Module) -> float:
    """The largest gradient value in the model."""
    return max(float(p.grad.max()) for p in model.parameters() if p.grad is not None)


def clip_example() -> tuple[float, Tensor]:
    """The worked example: [[1, 2], [2, 4]] has norm 5 and becomes [[.2, .4], [.4, .8]]."""
    gradient = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    return clip_reference([gradient], MAX_NORM), gradient


def text_batches() -> list[tuple[Tensor, Tensor]]:
    """Nine batches of 2 windows of 64 characters, from the help text of Python itself."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics))
    ids = torch.tensor(list(text.encode("ascii", "replace")[: STEPS_PER_EPOCH * ROWS * LENGTH + 1]))
    inputs, targets = ids[:-1].view(-1, ROWS, LENGTH), ids[1:].view(-1, ROWS, LENGTH)
    return list(zip(inputs, targets))


@dataclass
class History:
    """One value per update."""

    rates: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)  # before clipping
    losses: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Tools:
    """What the loop is given: an optimizer, a rate for each step, a way to clip."""

    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    rate: Callable[[int], float]
    clip: Callable[[list[nn.Parameter]], float]


def references() -> Tools:
    """The readable forms. Update number t = step + 1: at t = 0 the rate would be 0."""

    def rate(step: int) -> float:
        return learning_rate_reference(
            step + 1, warmup=WARMUP, end=TOTAL + 1, max_lr=PEAK, min_lr=FLOOR
        )

    def clip(parameters: list[nn.Parameter]) -> float:
        return clip_reference([p.grad for p in parameters if p.grad is not None], MAX_NORM)

    return Tools(lambda params: AdamWReference(params, weight_decay=DECAY), rate, clip)


def library() -> Tools:
    """What `Trainer` uses."""
    shape = ScheduleConfig(kind="cosine", warmup_steps=WARMUP, floor=FLOOR / PEAK)
    multiplier = schedule(shape, TOTAL)
    return Tools(
        lambda params: AdamW(params, weight_decay=DECAY),
        lambda step: PEAK * multiplier(step),
        lambda params: float(clip_gradients(params, MAX_NORM)),
    )


def book_schedule() -> Tools:
    """The references again, with appendix D's own schedule, which starts above 0."""
    tools = references()
    return Tools(tools.optimizer, book_rate, tools.clip)


def train(tools: Tools, epochs: int = EPOCHS) -> tuple[nn.Module, History]:
    """The loop: rate for this step, forward, backward, clip, update."""
    torch.manual_seed(123)
    config = BookConfig(vocab_size=128, context_length=LENGTH, width=64, heads=4, layers=2)
    model = BookGPT(config)
    parameters = list(model.parameters())
    optimizer = tools.optimizer(parameters)
    history = History()
    model.train()
    step = 0
    for _ in range(epochs):
        for inputs, targets in text_batches():
            for group in optimizer.param_groups:
                group["lr"] = tools.rate(step)
            optimizer.zero_grad()
            loss = batch_loss(model, inputs, targets)
            loss.backward()
            history.norms.append(tools.clip(parameters))
            optimizer.step()
            history.rates.append(tools.rate(step))
            history.losses.append(loss.item())
            step += 1
    return model, history


def main() -> None:
    """Print the worked example and the runs side by side."""
    norm, clipped = clip_example()
    rows = [[round(x, 4) for x in row] for row in clipped.tolist()]
    print(f"clipping [[1, 2], [2, 4]]: norm {norm:g}, becomes {rows}")
    print(f"{TOTAL} updates, {WARMUP} of warm-up, peak {PEAK:g}\n")
    runs = {
        "reference": train(references())[1],
        "library": train(library())[1],
        "appendix D's schedule": train(book_schedule())[1],
    }
    print("step   " + "   ".join(f"{name:>33}" for name in runs))
    print("       " + "   ".join(f"{'rate':>11}{'norm':>11}{'loss':>11}" for _ in runs))
    for step in [0, 1, 13, 26, 27, 54, 81, 108, 133, 134]:
        cells = [
            f"{run.rates[step]:11.3e}{run.norms[step]:11.4f}{run.losses[step]:11.4f}"
            for run in runs.values()
        ]
        print(f"{step:4}   " + "   ".join(cells))
    gap = max(abs(a - b) for a, b in zip(runs["reference"].losses, runs["library"].losses))
    print(f"\nlargest difference of loss between reference and library: {gap:.1e}")


if __name__ == "__main__":
    main()
