"""A run small enough for tests: a tiny model on a text with a pattern, in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from langwright.dataset import RowArrays, Rows
from langwright.model import build_model, model_config
from langwright.train import TrainConfig, Trainer, language_model_loss

LENGTH, SYMBOLS = 16, 13


class PatternRows(Rows):
    """Counting up by a step that differs from row to row; some targets are not counted."""

    def __init__(self, seed: int = 0, epoch_rows: int | None = 64, holes: bool = True) -> None:
        self.seed, self.epoch_rows, self.holes = seed, epoch_rows, holes
        self.sequence_length = LENGTH
        self.fingerprint = f"pattern {seed} {epoch_rows} {holes}"

    def gather(self, indices: np.ndarray) -> RowArrays:
        inputs, targets = [], []
        for index in indices:
            if self.epoch_rows:
                index = index % self.epoch_rows
            random = np.random.default_rng([self.seed, int(index)])
            row = (
                random.integers(SYMBOLS) + random.integers(1, 4) * np.arange(LENGTH + 1)
            ) % SYMBOLS
            target = row[1:].copy()
            if self.holes:
                target[: random.integers(0, LENGTH - 2)] = -100  # unequal counts
            inputs.append(row[:-1])
            targets.append(target)
        return RowArrays(np.stack(inputs).astype(np.int64), np.stack(targets).astype(np.int64))


def small_model(seed: int = 0, **changes: object):
    """A transformer of some thousand parameters."""
    table = {"width": 32, "layers": 2, "heads": 2, "context_length": LENGTH, **changes}
    return build_model(model_config(table, vocab_size=SYMBOLS), seed)


def small_config(**changes: object) -> TrainConfig:
    """Eight steps of 4 x 16 tokens with every choice made."""
    table = {
        "steps": 8,
        "batch_tokens": 4 * LENGTH,
        "micro_batch_rows": 2,
        "precision": "fp32",
        "compile": False,
        "checkpointing": "none",
        "lanes": 1,
        "device": "cpu",
        "lr": 3e-3,
        "schedule": {"kind": "linear", "warmup_steps": 2},
        **changes,
    }
    return TrainConfig.parse(table)


def small_trainer(folder: Path, model=None, rows=None, **changes: object) -> Trainer:
    """A quiet trainer of a small run."""
    options = {k: changes.pop(k) for k in ("valid", "objective", "tokenizer") if k in changes}
    model = small_model() if model is None else model
    rows = PatternRows() if rows is None else rows
    return Trainer(model, rows, small_config(**changes), folder, quiet=True, **options)


def weights_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all weights."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Counting:
    """The usual objective; counts its calls where another process can see them."""

    def __init__(self, calls) -> None:
        self.calls = calls

    def __call__(self, model, batch):
        self.calls.value += 1
        return language_model_loss(model, batch)


def _child(folder: Path, changes: dict[str, object], calls) -> None:
    torch.set_num_threads(1)  # a forked process has no threads of its parent's pool
    model = small_model(dropout_residual=0.1)
    valid = {"held out": PatternRows(seed=1, epoch_rows=8)}
    small_trainer(folder, model, valid=valid, objective=Counting(calls), **changes).run()
    save_file(weights_of(model), folder / "end.safetensors")
    os._exit(0)


def run_with_kills(
    folder: Path, kills: list[tuple[int, float]], **changes: object
) -> dict[str, torch.Tensor]:
    """Run to the end in child processes and return the final weights.

    For each (calls, delay) a process is killed by SIGKILL `delay` seconds after that many forward
    passes; the last one is let through.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("fork")
    for target, delay in [*kills, (None, 0.0)]:
        calls = context.Value("i", 0)
        process = context.Process(target=_child, args=(folder, changes, calls))
        process.start()
        while target is not None and calls.value < target:
            assert process.is_alive(), "the run ended before it could be killed"
            time.sleep(0.001)
        if target is not None:
            time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == (0 if target is None else -signal.SIGKILL)
    return load_file(folder / "end.safetensors")
