"""Time to a validation loss of 1.47 with nanoGPT's 10.7M character model: Langwright and its peer.

nanoGPT's recipe (train_shakespeare_char: dropout 0.2, AdamW, 5,000 updates of 64 x 256 tokens,
81.9M in all) reaches a validation loss of 1.4697 by its README; `recipes/nanogpt.toml` is the same
recipe here. On two cores that takes hours. So this script measures the speed of a few updates of
each, in turn, and COMPUTES the time of the whole recipe from it: tokens of the recipe over tokens
per second, without evaluations. The peer is GPT-2 of transformers in the same sizes (it has biases,
nanoGPT here none): as nanoGPT's README runs it on a CPU (fp32, not compiled), and as its defaults
have it (bf16, compiled).

    python benchmarks/nanogpt_time.py [--steps 4] [--rows 64] [--rounds 1]

With --train the recipe is run, and the time until the loss is at most 1.47 is measured, ours and
the compiled peer's; for a GPU, where that takes minutes. It is told from the evaluations that both
make every 250 updates, over the whole validation split, whose time is left out.

    python benchmarks/nanogpt_time.py --train [--data tinyshakespeare.txt] [--device cuda]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import SHARED_DATA, child, finish, flops_per_token, table

LAYERS, WIDTH, HEADS, LENGTH, SYMBOLS, ROWS = 6, 384, 6, 256, 65, 64
STEPS, EVERY, DROPOUT = 5000, 250, 0.2
TOKENS = STEPS * ROWS * LENGTH  # of the recipe: 81.9M
LOSS = 1.47
CONTENDERS = {
    "langwright": "langwright",
    "readme": "GPT-2 of transformers, fp32, eager",
    "fast": "GPT-2 of transformers, bf16, compiled",
}
MEASURED = ("langwright", "fast")  # with --train


def our_trainer(settings: dict[str, Any], rows: Any, folder: Path, valid: Any = None) -> Any:
    """Our trainer on nanoGPT's model, with its optimizer and schedule."""
    from langwright.model import build_model, model_config
    from langwright.train import TrainConfig, Trainer

    config = model_config({"preset": "gpt2-char-10m"}, vocab_size=SYMBOLS)
    train = TrainConfig.model_validate(
        {
            "optimizer": {"name": "adamw", "lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1},
            "schedule": {"kind": "cosine", "warmup_steps": 100, "floor": 0.1},
            "seed": 1337,
            **settings,
        }
    )
    model = build_model(config, seed=1337)
    return Trainer(model, rows, train, folder, valid=valid, quiet=True)


def peer_model() -> tuple[Any, Any]:
    """The peer and its optimizer."""
    import peer
    import torch

    torch.manual_seed(1337)
    model: Any = peer.gpt2(SYMBOLS, LENGTH, WIDTH, LAYERS, HEADS)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = DROPOUT
    return model, peer.adamw(model, 1e-3, (0.9, 0.99))


def speed_of_ours(rows: int, steps: int) -> float:
    """Tokens per second, as the trainer tells them."""
    import numpy as np

    from langwright.dataset import RandomChunkRows

    symbols = np.random.default_rng(0).integers(0, SYMBOLS, 2**20).astype(np.uint16)
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"steps": steps, "batch_tokens": rows * LENGTH, "device": "cpu"}
        settings["schedule"] = {"kind": "cosine", "warmup_steps": 0}  # the recipe's is longer
        our_trainer(settings, RandomChunkRows(symbols, LENGTH), Path(folder)).run()
        return statistics.median(our_rates(Path(folder))[1:])


def our_rates(folder: Path) -> list[float]:
    """Tokens per second of each update."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [r["tokens_per_second"] for line in lines if "loss" in (r := json.loads(line))]


def speed_of_peer(rows: int, steps: int, fast: bool) -> float:
    """Tokens per second of the plainest loop, timed from outside, after the first update."""
    import peer
    import torch

    model, optimizer = peer_model()
    step = torch.compile(model) if fast else model
    seconds = []
    for _ in range(steps):
        ids = torch.randint(SYMBOLS, (rows, LENGTH + 1))
        begun = time.perf_counter()
        peer.train_step(step, optimizer, ids[:, :-1], ids[:, 1:], bf16=fast)
        seconds.append(time.perf_counter() - begun)
    return rows * LENGTH / statistics.median(seconds[1:])


def time_of_ours(path: Path, device: str) -> dict[str, Any]:
    """Run the recipe; training seconds until the validation loss is low enough, from the log."""
    from tiny_shakespeare import characters

    from langwright.dataset import RandomChunkRows, WindowRows

    train, valid, _ = characters(path)
    held_out = {"valid": WindowRows(valid, LENGTH, shuffle=False, drop_last=False)}
    settings = {"steps": STEPS, "batch_tokens": ROWS * LENGTH, "device": device}
    settings |= {"evaluate_every": EVERY, "evaluate_rows": None}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        our_trainer(settings, RandomChunkRows(train, LENGTH, seed=1337), folder, held_out).run()
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    seconds, looks = 0.0, []
    for record in map(json.loads, lines):
        if "valid_loss" in record:
            looks.append((record["step"], seconds, record["valid_loss"]))
        elif "tokens_per_second" in record:
            seconds += ROWS * LENGTH / record["tokens_per_second"]
    return told(looks)


def time_of_peer(path: Path, device: str) -> dict[str, Any]:
    """The same with nanoGPT's loop: random windows, bf16 autocast, the whole model compiled."""
    import peer
    import torch
    from tiny_shakespeare import characters

    kind = torch.device(device).type
    train, valid, _ = (torch.tensor(ids) for ids in characters(path))
    train, valid = train.to(device), valid.to(device)
    model, _ = peer_model()
    model.to(device)
    optimizer, step = peer.adamw(model, 1e-3, (0.9, 0.99)), torch.compile(model)
    offsets = torch.arange(LENGTH + 1, device=device)
    seconds, looks = 0.0, []
    for number in range(STEPS):
        begun = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = peer.cosine(number, 1e-3, 1e-4, 100, STEPS)
        starts = torch.randint(len(train) - LENGTH, (ROWS, 1), device=device)
        ids = train[starts + offsets]  # (B, T + 1)
        with torch.autocast(kind, dtype=torch.bfloat16):
            logits = step(ids[:, :-1]).logits  # (B, T, V)
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), ids[:, 1:].flatten()
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        due = (number + 1) % EVERY == 0
        if due and kind == "cuda":
            torch.cuda.synchronize()
        seconds += (time.perf_counter() - begun) if number else 0.0  # without the compilation
        if due:
            looks.append((number + 1, seconds, peer_loss(model, valid)))
    return told(looks)


def peer_loss(model: Any, ids: Any) -> float:
    """Loss over the whole validation split, in windows of T."""
    from tiny_shakespeare import peer_loss

    model.eval()
    loss = peer_loss(model, ids, LENGTH)
    model.train()
    return loss


def told(looks: list[tuple[int, float, float]]) -> dict[str, Any]:
    """When the loss was reached, from (step, seconds of training, validation loss)."""
    first = next((look for look in looks if look[2] <= LOSS), None)
    return {
        "seconds_to_loss": None if first is None else round(first[1], 1),
        "steps_to_loss": None if first is None else first[0],
        "best_loss": min(look[2] for look in looks),
        "seconds": round(looks[-1][1], 1),
        "curve": [(step, round(seconds, 1), round(loss, 4)) for step, seconds, loss in looks],
    }


def run_child(options: argparse.Namespace) -> dict[str, Any]:
    """One contender in this process."""
    if options.train:
        run = time_of_ours if options.child == "langwright" else time_of_peer
        return run(options.data, options.device)
    if options.child == "langwright":
        rate = speed_of_ours(options.rows, options.steps)
    else:
        rate = speed_of_peer(options.rows, options.steps, fast=options.child == "fast")
    from langwright.base import matmul_peak

    return {"tokens_per_second": rate, "matmul_peak": matmul_peak("bf16", "cpu")}


def main() -> None:
    """Run the contenders in turn and print the table."""
    parser = argparse.ArgumentParser(description="Time to loss 1.47 with nanoGPT's 10.7M model.")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of 256 tokens in a batch")
    parser.add_argument("--steps", type=int, default=4, help="updates; the first is not timed")
    parser.add_argument("--rounds", type=int, default=1, help="turns each contender takes")
    parser.add_argument("--train", action="store_true", help="run the recipe; for a GPU")
    parser.add_argument("--data", type=Path, default=SHARED_DATA / "tinyshakespeare.txt")
    parser.add_argument("--device", default="cuda", help="for --train")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.steps < 2:
        parser.error("--steps must be at least 2")
    if options.train and not options.data.is_file():
        parser.error(f"no file {options.data}: name nanoGPT's input.txt with --data")
    if options.child:
        print(json.dumps(run_child(options)))
        return

    script = Path(__file__).name
    if options.train:
        place = ("--train", "--data", options.data, "--device", options.device)
        runs = {name: child(script, "--child", name, *place) for name in MEASURED}
        finish("nanogpt_time", summarise_runs(runs, options.device))
        return
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for _ in range(options.rounds):
        for name, done in rounds.items():
            task = ("--child", name, "--rows", options.rows, "--steps", options.steps)
            done.append(child(script, *task))
            print(f"{name}: {done[-1]['tokens_per_second']:,.0f} tokens/s", file=sys.stderr)
    finish("nanogpt_time", summarise(rounds))


def summarise(rounds: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Print the table of computed times; the quickest round of each contender counts."""
    peak = max(run["matmul_peak"] for runs in rounds.values() for run in runs)
    # 10,646,784: blocks without biases, the tied table, norms; as nanoGPT counts it
    parameters = LAYERS * (12 * WIDTH**2 + 2 * WIDTH) + SYMBOLS * WIDTH + WIDTH
    flops = flops_per_token(parameters, LAYERS, WIDTH, LENGTH)
    rates = {name: max(r["tokens_per_second"] for r in done) for name, done in rounds.items()}
    results, rows = {}, []
    for name, rate in rates.items():
        hours = TOKENS / rate / 3600
        results[name] = {
            "tokens_per_second": round(rate, 1),
            "computed_hours": round(hours, 2),
            "share_of_peak": round(rate * flops / peak, 4),
            "langwright_is_faster_by": round(rates["langwright"] / rate, 2),
        }
        ratio = f"{rates['langwright'] / rate:.2f}x"
        cells = [f"{rate:,.0f}", f"{hours:.1f}", f"{rate * flops / peak:.1%}", ratio]
        rows.append([CONTENDERS[name], *cells])
    columns = [
        "trainer",
        "tokens/s, measured",
        "hours, COMPUTED",
        "of bf16 peak",
        "langwright / it",
    ]
    title = f"nanoGPT's {TOKENS / 1e6:.1f}M tokens to loss {LOSS}; the limit would take "
    table(title + f"{TOKENS * flops / peak / 3600:.1f} hours", columns, rows)
    return {"contenders": results, "computed": True, "tokens": TOKENS, "matmul_peak": peak}


def summarise_runs(runs: dict[str, dict[str, Any]], device: str) -> dict[str, Any]:
    """Print the table of measured times."""
    rows = []
    for name, run in runs.items():
        reached = run["seconds_to_loss"]
        cells = ["never" if reached is None else f"{reached:,.1f}", run["steps_to_loss"] or "-"]
        rows.append([CONTENDERS[name], *cells, f"{run['best_loss']:.4f}", f"{run['seconds']:,.1f}"])
    columns = ["trainer", f"seconds to {LOSS}", "updates", "best loss", "seconds of all updates"]
    table(f"nanoGPT's recipe, run on {device}", columns, rows)
    return {"contenders": runs, "computed": False, "tokens": TOKENS}


if __name__ == "__main__":
    main()
