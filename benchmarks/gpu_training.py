"""Training on one GPU: 124M, 350M and 1B in bf16 and fp8, beside `transformers` on the same card.

Llama-shaped models (see contenders.py; 1b is Llama 3.2 1B), random tokens, AdamW, clipping, blocks
or model compiled, equal batches in equal passes. 124m-32k has rows of 32,768 tokens and blocks
checkpointed in full, here and there. Every contender in a process of its own:

- ours: bf16
- ours-auto: the same, with passes and checkpointing of activations as the trainer chooses them
- ours-fp8: the blocks' products in float8 (needs torchao)
- ours-documents: four documents in each row, none sees another (FlexAttention's block mask)
- ours-dense: the same, with a mask of every pair of tokens
- transformers: `transformers.Trainer`, bf16, torch_compile

    python benchmarks/gpu_training.py [--sizes 124m,124m-32k] [--contenders ours,transformers]
    python benchmarks/gpu_training.py --device cpu --tiny      # the same code on a tiny model

MFU is 6N + 12LdT FLOPs for a token over the card's bf16 peak as its maker prints it (where the card
is known), and beside it over the measured rate of matrix products. Peak memory is what torch
allocated. Without a GPU it says so and ends well. Nothing has to be installed but torch and what
Langwright needs; a contender whose packages are missing is left out with the reason.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from common import child, finish, table

GIB = 2**30
CONTENDERS = {
    "ours": "langwright, bf16",
    "ours-auto": "langwright, bf16, own choice of passes",
    "ours-fp8": "langwright, fp8",
    "ours-documents": "langwright, bf16, document masks",
    "ours-dense": "langwright, bf16, document masks of all pairs",
    "transformers": "transformers.Trainer, bf16, compiled",
}
# size: rows of a batch, rows of a pass, updates
TASKS = {
    "tiny": (4, 2, 3),
    "124m": (128, 64, 24),
    "350m": (128, 64, 16),
    "1b": (64, 16, 10),
    "124m-32k": (4, 1, 8),
}
LONG = ("124m-32k",)  # need checkpointed blocks
DOCUMENTS = 4  # in a row


def document_rows(shape: Any) -> Any:
    """Random windows, each of several documents that begin at random places."""
    import numpy as np
    from contenders import random_ids

    from langwright.dataset import RandomChunkRows, RowArrays

    class DocumentRows(RandomChunkRows):
        """Positions count from each document's beginning."""

        def gather(self, indices: np.ndarray) -> RowArrays:
            arrays = super().gather(indices)
            length = self.sequence_length
            starts = np.zeros((len(indices), length), dtype=np.int32)  # 1 where a document begins
            for row, index in enumerate(indices.tolist()):
                cuts = np.random.default_rng(index).integers(1, length, DOCUMENTS - 1)
                starts[row, cuts] = 1
            segments = starts.cumsum(axis=1, dtype=np.int32)
            places = np.broadcast_to(np.arange(length), starts.shape)
            begun = np.maximum.accumulate(np.where(starts == 1, places, 0), axis=1)
            return RowArrays(arrays.inputs, arrays.targets, segments, places - begun)

    return DocumentRows(random_ids(shape, 2**20), shape.length)


def run_child(name: str, size: str, device: str) -> dict[str, Any]:
    """One contender in this process, or the card's rates."""
    cuda = device == "cuda"
    if name == "peak":
        return peaks(device)
    import contenders

    shape, (rows, micro, steps) = contenders.SHAPES[size], TASKS[size]
    long = size in LONG
    if name == "transformers":
        return contenders.transformers_trainer(
            shape, rows, steps, micro=micro, compiled=cuda, cuda=cuda, checkpointing=long
        )
    settings: dict[str, Any] = {
        "precision": "fp8" if name == "ours-fp8" else "bf16",
        "compile": cuda,
        "device": device,
    }
    if name != "ours-auto":
        settings |= {"micro_batch_rows": micro, "checkpointing": "full" if long else "none"}
    more = {}
    if name in ("ours-documents", "ours-dense"):
        more["data"] = document_rows(shape)
    if name == "ours-dense":
        from langwright.model import attention_kernels

        attention_kernels.FLEX_QUERIES = 1 << 30  # no row is long enough for FlexAttention
    return contenders.ours(shape, rows, steps, settings, **more)


def peaks(device: str) -> dict[str, Any]:
    """The measured rate of bf16 products, and the printed one where the card is known, FLOP/s."""
    from langwright.base import machine, matmul_peak
    from langwright.plan import device_named, device_names

    found = machine().name if device == "cuda" else "cpu"
    words = found.lower().split()
    known = next((name for name in device_names() if name in words), None)
    printed = device_named(known).peak("bf16") if known else None
    return {"device": found, "measured": matmul_peak("bf16", device), "printed": printed}


def attempt(*arguments: object) -> dict[str, Any]:
    """A child's result; where it fails the last line of what it said, as ``failed``."""
    try:
        return child(Path(__file__).name, *arguments)
    except SystemExit as error:
        return {"failed": str(error).strip().splitlines()[-1]}


def has_gpu() -> bool:
    """Asked of another process: this one stays small."""
    return bool(child(Path(__file__).name, "--child", "gpu")["gpu"])


def main() -> None:
    """Run the contenders size by size, and print a table for each."""
    parser = argparse.ArgumentParser(description="Training on one GPU.")
    parser.add_argument("--sizes", default="124m,350m,1b,124m-32k")
    parser.add_argument("--contenders", default=",".join(CONTENDERS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: tests the script only")
    parser.add_argument("--child", choices=[*CONTENDERS, "peak", "gpu"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "gpu":
        import torch

        print(json.dumps({"gpu": torch.cuda.is_available()}))
        return
    if options.child:
        print(json.dumps(run_child(options.child, options.sizes, options.device)))
        return
    sizes = ["tiny"] if options.tiny else options.sizes.split(",")
    names = options.contenders.split(",")
    if unknown := (set(sizes) - set(TASKS)) | (set(names) - set(CONTENDERS)):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    if options.device == "cpu" and not options.tiny:
        parser.error("on a CPU with --tiny only")
    if options.device == "cuda" and not has_gpu():
        print("no GPU here")
        finish("gpu_training", {"skipped": "no GPU here"})
        return

    place = ("--device", options.device)
    peak = child(Path(__file__).name, "--child", "peak", *place)
    results = {}
    for size in sizes:
        runs = {}
        for name in names:
            runs[name] = attempt("--child", name, "--sizes", size, *place)
            rate = runs[name].get("tokens_per_second")
            said = runs[name].get("failed") or f"{rate:,.0f} tokens/s"
            print(f"{size}, {name}: {said}", file=sys.stderr)
        results[size] = summarise(size, runs, peak)
    finish("gpu_training", {"sizes": results, "peak": peak})


def summarise(size: str, runs: dict[str, Any], peak: dict[str, Any]) -> dict[str, Any]:
    """Print one size's table."""
    from contenders import SHAPES

    shape, (batch, micro, _) = SHAPES[size], TASKS[size]
    results, rows, failed = {}, [], []
    ours = runs.get("ours", {}).get("tokens_per_second")
    for name, run in runs.items():
        if "failed" in run:
            results[name] = {"failed": run["failed"]}
            failed.append(f"  left out: {CONTENDERS[name]}: {run['failed']}")
            continue
        rate = run["tokens_per_second"]
        printed = rate * shape.flops / peak["printed"] if peak["printed"] else None
        measured = rate * shape.flops / peak["measured"]
        results[name] = {
            "tokens_per_second": round(rate, 1),
            "mfu": None if printed is None else round(printed, 4),
            "share_of_measured_peak": round(measured, 4),
            "peak_bytes": run["peak_bytes"],
            "over_ours": round(rate / ours, 3) if ours else None,
            "choices": run.get("choices"),
        }
        cells = [f"{rate:,.0f}", "-" if printed is None else f"{printed:.1%}", f"{measured:.1%}"]
        cells += [f"{run['peak_bytes'] / GIB:.1f}", f"{rate / ours:.2f}x" if ours else "-"]
        rows.append([CONTENDERS[name], *cells])
    columns = ["trainer", "tokens/s", "MFU", "of measured peak", "peak GiB", "it / ours, bf16"]
    title = f"{shape.parameters:,} parameters, batch {batch} x {shape.length}, passes of {micro} "
    table(title + f"rows; limit {peak['measured'] / 1e12:,.1f} TFLOP/s measured", columns, rows)
    print("\n".join(failed))
    return results


if __name__ == "__main__":
    main()
