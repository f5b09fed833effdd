"""Peak memory of training the 10.7M model: Langwright beside `transformers.Trainer`.

Equal models (see `throughput_10m.py`), equal batches of 64 x 256 tokens, a few steps; each in a
process of its own. Peak memory is the most main memory the process ever held, libraries included;
what the libraries alone need is printed beside it.

    python benchmarks/memory_10m.py [--rows 64]

The peer appears as it comes (fp32) and with bf16 switched on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import child, finish, peak_resident_bytes, table
from throughput_10m import HEADS, LAYERS, LENGTH, SYMBOLS, WIDTH, run_langwright

MIB = 2**20
CONTENDERS = {
    "langwright": "langwright",
    "trainer": "transformers.Trainer, fp32",
    "trainer_bf16": "transformers.Trainer, bf16",
}


def run_transformers(rows: int, steps: int, bf16: bool) -> dict[str, Any]:
    """`transformers.Trainer` on GPT-2 of the same sizes, on random symbols."""
    import peer
    import torch
    from transformers import Trainer, TrainingArguments

    libraries = peak_resident_bytes()
    torch.manual_seed(0)
    ids = torch.randint(SYMBOLS, (rows * steps, LENGTH))
    examples = [{"input_ids": row, "labels": row} for row in ids]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=rows,
            learning_rate=1e-3,
            weight_decay=0.1,
            max_grad_norm=1.0,
            bf16=bf16,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        model: Any = peer.gpt2(SYMBOLS, LENGTH, WIDTH, LAYERS, HEADS)
        Trainer(model=model, args=arguments, train_dataset=examples).train()
    return {"peak_bytes": peak_resident_bytes(), "libraries_bytes": libraries}


def run_ours(rows: int, steps: int) -> dict[str, Any]:
    """Langwright's Trainer as in the throughput benchmark."""
    import langwright.train  # noqa: F401  (what importing alone needs)

    libraries = peak_resident_bytes()
    run_langwright(rows, steps, compiled=False)
    return {"peak_bytes": peak_resident_bytes(), "libraries_bytes": libraries}


def main() -> None:
    """Run the contenders in turn and print the table."""
    parser = argparse.ArgumentParser(description="Peak memory of training a 10.7M model.")
    parser.add_argument("--rows", type=int, default=64, help="rows of 256 tokens in a batch")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--only", choices=CONTENDERS, action="append", help="leave the others out")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "langwright":
        print(json.dumps(run_ours(options.rows, options.steps)))
        return
    if options.child:
        bf16 = options.child == "trainer_bf16"
        print(json.dumps(run_transformers(options.rows, options.steps, bf16)))
        return

    results, rows = {}, []
    for name in options.only or list(CONTENDERS):
        arguments = ("--child", name, "--rows", options.rows, "--steps", options.steps)
        results[name] = child(Path(__file__).name, *arguments)
        print(f"{name}: {results[name]['peak_bytes'] / MIB:,.0f} MiB", file=sys.stderr)
    ours = results.get("langwright", {}).get("peak_bytes")
    for name, result in results.items():
        result["langwright_over_it"] = round(ours / result["peak_bytes"], 3) if ours else None
        peak, libraries = result["peak_bytes"], result["libraries_bytes"]
        ratio = f"{ours / peak:.2f}x" if ours else "-"
        cells = [f"{size / MIB:,.0f}" for size in (peak, libraries, peak - libraries)]
        rows.append([CONTENDERS[name], *cells, ratio])
    columns = ["trainer", "peak MiB", "libraries", "training", "langwright / it"]
    table(f"10.7M model, batch {options.rows} x {LENGTH}", columns, rows)
    finish("memory_10m", {"contenders": results, "rows": options.rows})


if __name__ == "__main__":
    main()
