"""Tiny Shakespeare by characters: validation loss after a few seconds, nanoGPT's CPU recipe beside.

nanoGPT's split: the first 90 % of the characters train, the rest validates. Each run is a fresh
process and its clock starts before Python does. Training ends within the budget; then the loss is
taken over the whole validation split, in windows as long as those trained on.

    python benchmarks/tiny_shakespeare.py [--data tinyshakespeare.txt] [--budget 15] [--seeds 3]
    python benchmarks/tiny_shakespeare.py --target 1.886     # the time that ours needs to a loss

With --target: the least budget, in whole seconds up to --budget, of which every seed's run ends at
that loss or below; found by halving, every run from its own start (the rate falls to its end).

The peer, in the same run, is GPT-2 of `transformers` with the recipe of nanoGPT's README for a CPU:
4 layers, 4 heads, 128 wide, context 64, batch 12, 2,000 steps, learning rate 1e-3 to 1e-4 by a
cosine after 100 steps, betas 0.9 and 0.99, decay 0.1, no dropout.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import SHARED_DATA, child, finish, seconds_since_start, table

PEER = {"layers": 4, "heads": 4, "width": 128, "length": 64, "rows": 12, "steps": 2000}
CONTENDERS = {
    "langwright": "langwright",
    "peer": "GPT-2 of transformers, nanoGPT's CPU recipe",
}

# Ours. Length and batch in tokens; everything else is a field of ModelConfig or TrainConfig.
LENGTH, BATCH_TOKENS = 64, 2048
MODEL: dict[str, Any] = {
    "width": 128,
    "layers": 3,
    "heads": 4,
    "position": "rotary",
    "norm": "rmsnorm",
    "qk_norm": True,
    "feedforward": "relu2",
    "tied": False,
    "init": "modern",
    "init_std": 1.0,
}
TRAIN: dict[str, Any] = {
    "optimizer": {
        "name": "muon",
        "lr": 0.02,
        "embedding_lr": 0.1,
        "head_lr": 0.01,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "betas": (0.8, 0.95),
        "eps": 1e-10,
    },
    "schedule": {"kind": "linear", "warmup_steps": 5, "floor": 0.02},
    "precision": "bf16",
    "compile": False,  # compiling takes longer than the whole run
    "lanes": os.cpu_count(),
}
LEAST_BUDGET = 5  # seconds; imports and the first update take most of them
LEAVING_SECONDS = 0.5  # for the last checkpoint and for tidying up


def characters(path: Path) -> tuple[list[int], list[int], int]:
    """Ids of the training and the validation characters, and how many symbols there are."""
    text = path.read_text(encoding="utf-8")
    numbers = {symbol: number for number, symbol in enumerate(sorted(set(text)))}
    ids = [numbers[symbol] for symbol in text]
    cut = int(0.9 * len(ids))
    return ids[:cut], ids[cut:], len(numbers)


def run_langwright(path: Path, seed: int, budget: float, steps: int | None) -> dict[str, Any]:
    """Train for `steps`, or until `budget` seconds after the start of the process."""
    from langwright.dataset import RandomChunkRows, WindowRows
    from langwright.model import ModelConfig, build_model
    from langwright.train import TrainConfig, Trainer

    train, valid, symbols = characters(path)
    config = ModelConfig(vocab_size=symbols, context_length=LENGTH, **MODEL)
    model = build_model(config, seed=seed)
    rows = RandomChunkRows(train, LENGTH, seed=seed)
    left = budget - LEAVING_SECONDS - seconds_since_start()
    length = {"steps": steps} if steps else {"minutes": left / 60}
    settings = {**TRAIN, **length, "batch_tokens": BATCH_TOKENS, "seed": seed}
    with tempfile.TemporaryDirectory() as folder:
        metrics = Trainer(
            model, rows, TrainConfig.model_validate(settings), Path(folder), quiet=True
        ).run()
        choices = json.loads((Path(folder) / "choices.json").read_text())["choices"]
    trained = seconds_since_start()
    from langwright.evaluate import evaluate_rows

    # drop_last=False: the windows hold every character of the split, each predicted once
    held_out = WindowRows(valid, LENGTH, shuffle=False, drop_last=False)
    return {
        "trained_seconds": trained,
        "loss": evaluate_rows(model, held_out).nats_per_token,
        "steps": metrics["steps"],
        "tokens": metrics["steps"] * BATCH_TOKENS,
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": choices["precision"]["value"],
    }


def run_peer(path: Path, seed: int, steps: int) -> dict[str, Any]:
    """nanoGPT's recipe, without its evaluations on the way."""
    import peer
    import torch

    torch.manual_seed(seed)
    train, valid, symbols = characters(path)
    ids, length = torch.tensor(train), PEER["length"]
    model: Any = peer.gpt2(symbols, length, PEER["width"], PEER["layers"], PEER["heads"])
    optimizer = peer.adamw(model, 1e-3, (0.9, 0.99))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peer.cosine(step, 1e-3, 1e-4, 100, steps)
        starts = torch.randint(len(ids) - length, (PEER["rows"],))
        rows = torch.stack([ids[start : start + length + 1] for start in starts])
        peer.train_step(model, optimizer, rows[:, :-1], rows[:, 1:])
    trained = seconds_since_start()
    return {
        "trained_seconds": trained,
        "loss": peer_loss(model.eval(), torch.tensor(valid), length),
        "steps": steps,
        "tokens": steps * PEER["rows"] * length,
        "parameters": sum(p.numel() for p in model.parameters()),
        "precision": "fp32",
    }


def peer_loss(model: Any, ids: Any, length: int) -> float:
    """Mean loss over all of `ids`: every target once, in windows of `length` (the last shorter)."""
    import torch

    total = 0.0
    whole = (len(ids) - 1) // length * length
    inputs, targets = ids[:whole].view(-1, length), ids[1 : whole + 1].view(-1, length)
    pairs = list(zip(inputs.split(128), targets.split(128)))
    if whole < len(ids) - 1:
        pairs.append((ids[None, whole:-1], ids[None, whole + 1 :]))
    with torch.no_grad():
        for some, right in pairs:
            logits = model(some).logits.flatten(0, 1)
            loss = torch.nn.functional.cross_entropy(logits, right.flatten(), reduction="sum")
            total += loss.item()
    return total / (len(ids) - 1)


def main() -> None:
    """Run the contenders in turn, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(description="Tiny Shakespeare by characters.")
    parser.add_argument("--data", type=Path, default=SHARED_DATA / "tinyshakespeare.txt")
    parser.add_argument("--budget", type=float, default=15.0, help="seconds for our training")
    parser.add_argument("--steps", type=int, help="train ours for so many updates instead")
    parser.add_argument("--seeds", type=int, default=3, help="runs of ours, each with its seed")
    parser.add_argument(
        "--target", type=float, help="find the seconds that ours needs to this loss"
    )
    parser.add_argument("--peer-seeds", type=int, default=1, help="runs of the peer")
    parser.add_argument("--peer-steps", type=int, default=PEER["steps"])
    parser.add_argument("--only", choices=CONTENDERS, action="append", help="leave the other out")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.data.is_file():
        parser.error(f"no file {options.data}: name nanoGPT's input.txt with --data")
    if options.child == "langwright":
        result = run_langwright(options.data, options.seed, options.budget, options.steps)
        print(json.dumps(result))
        return
    if options.child:
        print(json.dumps(run_peer(options.data, options.seed, options.peer_steps)))
        return

    if options.target is not None:
        finish("tiny_shakespeare_target", time_to_target(options))
        return
    names = options.only or list(CONTENDERS)
    counts = {"langwright": options.seeds, "peer": options.peer_seeds}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    settings = ["--data", options.data, "--budget", options.budget]
    settings += ["--steps", options.steps] if options.steps else []
    for seed in range(max(counts[name] for name in names)):
        for name in names:
            if seed >= counts[name]:
                continue
            arguments = ("--child", name, "--seed", seed, "--peer-steps", options.peer_steps)
            runs[name].append(child(Path(__file__).name, *arguments, *settings))
            run = runs[name][-1]
            done = f"{run['trained_seconds']:.1f} s, validation loss {run['loss']:.4f}"
            print(f"{name}, seed {seed}: {done}", file=sys.stderr)
    finish("tiny_shakespeare", summarise(runs))


def time_to_target(options: argparse.Namespace) -> dict[str, Any]:
    """Halve the budgets between one that is too small and one that is enough."""
    tried: dict[int, list[dict[str, Any]]] = {}

    def enough(budget: int) -> bool:
        tried[budget] = []
        for seed in range(options.seeds):
            arguments = ("--child", "langwright", "--seed", seed, "--data", options.data)
            run = child(Path(__file__).name, *arguments, "--budget", budget)
            tried[budget].append(run)
            done = f"{run['trained_seconds']:.1f} s, validation loss {run['loss']:.4f}"
            print(f"budget {budget} s, seed {seed}: {done}", file=sys.stderr)
            if run["loss"] > options.target:
                return False
        return True

    few, many = LEAST_BUDGET, int(options.budget)
    if not enough(many):
        raise SystemExit(f"{many} s are not enough for a loss of {options.target}")
    while many - few > 1:
        middle = (few + many) // 2
        if enough(middle):
            many = middle
        else:
            few = middle
    losses = [run["loss"] for run in tried[many]]
    slowest = max(run["trained_seconds"] for run in tried[many])
    print(f"loss {options.target} within {many} s (the slowest seed: {slowest:.1f} s, {losses})")
    return {"target": options.target, "budget": many, "slowest_seconds": slowest, "tried": tried}


def summarise(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Print and return the mean over the seeds."""
    result, rows = {}, []
    for name, done in runs.items():
        losses = [run["loss"] for run in done]
        mean = {
            key: statistics.mean(run[key] for run in done)
            for key in ("trained_seconds", "wall_seconds", "loss", "tokens")
        }
        spread = statistics.stdev(losses) if len(losses) > 1 else None
        result[name] = {
            **mean,
            "loss_deviation": spread,
            "slowest_seconds": max(run["trained_seconds"] for run in done),
            "runs": done,
        }
        loss = f"{mean['loss']:.4f}" + (f" ± {spread:.4f}" if spread is not None else "")
        times = f"{mean['trained_seconds']:.1f} s", f"{mean['wall_seconds']:.1f} s"
        rows.append([CONTENDERS[name], *times, loss, f"{mean['tokens'] / 1e3:,.0f} k", len(done)])
    columns = ["trainer", "to trained", "with evaluation", "validation loss", "tokens", "runs"]
    table("Tiny Shakespeare, characters; seconds from the start of the process", columns, rows)
    if len(result) == 2:
        ratio = result["peer"]["trained_seconds"] / result["langwright"]["trained_seconds"]
        print(f"  the peer takes {ratio:.1f} times as long")
        return {"contenders": result, "peer_takes_times_as_long": round(ratio, 2)}
    return {"contenders": result}


if __name__ == "__main__":
    main()
