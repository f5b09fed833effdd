"""Exercise 5.4: save model and optimizer, go on in a new session for one more epoch.

The new session is a new process, started by this script; nothing but the saved files connects the
two. It must end with the same weights as a run of two epochs without a break, bit by bit: once
with plain torch in the book's way, once with Langwright's trainer, which is told nothing but the
same command again.

    python docs/learn/exercise_resume.py
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from figures import Figure, close, show
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import langwright
from langwright.dataset import Batch, WindowRows
from langwright.model import ModelConfig, Transformer, build_model
from langwright.optim import OptimConfig
from langwright.train import TrainConfig, Trainer, language_model_loss

LENGTH, ROWS = 32, 4
EPOCH = 6  # updates in one pass over the rows
RATE, OTHER_RATE = 4e-4, 5e-4  # the saved rate, and the one that the new session asks for


def rows() -> WindowRows:
    """24 windows of Python's own help text as bytes, in another order each epoch."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[name] for name in sorted(topics)).encode("utf-8")
    return WindowRows(list(text[: EPOCH * ROWS * LENGTH + 1]), LENGTH)


def new_model() -> Transformer:
    """About 30,000 parameters, the same each time."""
    config = ModelConfig(vocab_size=256, context_length=LENGTH, width=32, layers=2, heads=4)
    return build_model(config, seed=0)


# ---- The book's way: two state dicts in a file ---------------------------------------------


def one_epoch(model: Transformer, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    """Epoch number `epoch`, 0 or 1, of the loop."""
    data = rows()
    model.train()
    for step in range(epoch * EPOCH, (epoch + 1) * EPOCH):
        batch = data.batch(step * ROWS, ROWS)
        loss, count = model.loss(batch.inputs, batch.targets)
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()


def adamw(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    """The book's optimizer."""
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1)


def first_session(folder: Path) -> None:
    """One epoch, then the file."""
    model = new_model()
    optimizer = adamw(model, RATE)
    one_epoch(model, optimizer, 0)
    both = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(both, folder / "book.pth")


def second_session(folder: Path) -> None:
    """Read the file, one more epoch. The rate asked for here is overruled by the saved one."""
    saved = torch.load(folder / "book.pth", weights_only=True)  # tensors and numbers, no code
    model = new_model()
    model.load_state_dict(saved["model"])
    optimizer = adamw(model, OTHER_RATE)
    optimizer.load_state_dict(saved["optimizer"])
    one_epoch(model, optimizer, 1)
    tensors = {name: p.detach().clone() for name, p in model.named_parameters()}
    save_file(tensors, folder / "book.safetensors")
    rate = torch.tensor(optimizer.param_groups[0]["lr"], dtype=torch.float64)
    save_file({"rate": rate}, folder / "rate.safetensors")


# ---- Langwright's way: the same command again ----------------------------------------------


def trainer(folder: Path, stop_after: int | None = None) -> Trainer:
    """Two epochs; with `stop_after`, Ctrl-C is pressed during that update."""
    config = TrainConfig(
        epochs=2,
        batch_tokens=ROWS * LENGTH,
        micro_batch_rows=ROWS,
        precision="fp32",
        compile=False,
        lanes=1,
        device="cpu",
        optimizer=OptimConfig(name="adamw", lr=RATE),
    )
    # The update is known by its rows: the trainer also tries the objective before the first one.
    last = None if stop_after is None else rows().batch((stop_after - 1) * ROWS, ROWS).inputs

    def objective(model: Any, batch: Batch) -> tuple[Tensor, Tensor | float]:
        if last is not None and torch.equal(batch.inputs, last):
            signal.raise_signal(signal.SIGINT)
        return language_model_loss(model, batch)

    return Trainer(new_model(), rows(), config, folder, objective=objective, quiet=True)


def trained_weights(run: Trainer) -> dict[str, Tensor]:
    """The weights after the last update."""
    run.run()
    return {name: p.detach().clone() for name, p in run.model.named_parameters()}


# ---- Both sessions -------------------------------------------------------------------------


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names of weights that are not the same in every bit."""
    return [name for name in a.keys() | b.keys() if not torch.equal(a[name], b[name])]


def r12_one_more_epoch(folder: Path) -> Iterator[Figure]:
    """First session here, the second in a new process, beside runs without a break."""
    first_session(folder)
    with contextlib.suppress(KeyboardInterrupt):
        trainer(folder / "run", stop_after=EPOCH).run()
    saved = [path.name for path in (folder / "run" / "checkpoints").iterdir()]
    yield close("R12 the first session stopped after one epoch", saved, [f"step-{EPOCH:07d}"])
    command = [sys.executable, __file__, "--second-session", str(folder)]
    same_package = {**os.environ, "PYTHONPATH": str(Path(langwright.__file__).parents[1])}
    subprocess.run(command, check=True, timeout=120, env=same_package)

    model = new_model()
    optimizer = adamw(model, RATE)
    one_epoch(model, optimizer, 0)
    after_one = {name: p.detach().clone() for name, p in model.named_parameters()}
    one_epoch(model, optimizer, 1)
    straight = dict(model.named_parameters())
    resumed = load_file(folder / "book.safetensors")
    yield close("R12 the book's way: weights that differ", differing(straight, resumed), [])
    moved = len(differing(after_one, resumed))
    yield close("R12 the second epoch changed the weights", moved == len(resumed), True)
    rate = load_file(folder / "rate.safetensors")["rate"]
    yield close("R12 its rate is the saved one", rate, RATE)

    whole = trained_weights(trainer(folder / "whole"))
    resumed = load_file(folder / "trainer.safetensors")
    yield close("R12 langwright.train.Trainer: weights that differ", differing(whole, resumed), [])


def main(arguments: list[str]) -> int:
    """The exercise, or, started by it, its second session."""
    if arguments[:1] == ["--second-session"]:
        torch.set_num_threads(1)
        folder = Path(arguments[1])
        second_session(folder)
        save_file(trained_weights(trainer(folder / "run")), folder / "trainer.safetensors")
        return 0
    torch.set_num_threads(1)  # one order of additions in both processes
    with tempfile.TemporaryDirectory() as temporary:
        return show(r12_one_more_epoch(Path(temporary)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
