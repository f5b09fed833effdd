"""Fuzz every reader of model files: thousands of damaged files, each of which must be refused with
a `UserError`, or be read to the same numbers that the reference library reads.

    python benchmarks/fuzz_formats.py [--count 10000] [--seed 0] [READER ...]

Each reader runs in a process of its own with limited memory and an alarm for each file. The table
says how many files were refused and accepted, how many broke the reader (a traceback, an alarm: a
bug, of which the first are printed), the slowest file, and the most memory beyond the start.
The exit status is 1 if any file broke a reader.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from fuzz_mutations import mutate, mutate_json

MEMORY, SECONDS = 600 * 2**20, 20
Check = Callable[[Path], None]


class Late(BaseException):
    """The alarm rang."""


def small_model(folder: Path, **more: Any) -> None:
    """A model folder of some kilobytes."""
    from langwright.formats import save_model
    from langwright.model import ModelConfig, build_model

    options = {"vocab_size": 24, "context_length": 16, "width": 8, "layers": 2, "heads": 2}
    save_model(folder, build_model(ModelConfig.model_validate(options)), **more)


def small_tokenizer(folder: Path) -> None:
    """A byte-pair tokenizer with a chat template."""
    from langwright.tokenizer import CHAT_SPECIALS, TokenizerConfig, train_tokenizer

    config = TokenizerConfig(vocab_size=300, special_tokens=list(CHAT_SPECIALS))
    train_tokenizer(config, ["the cat sat on the mat. " * 9]).save(folder)


def check_model(folder: Path) -> None:
    """Read the folder; what is accepted must be what the library `safetensors` reads."""
    import torch
    from safetensors.torch import load_file

    from langwright.formats import load_model

    model = load_model(folder)
    theirs: dict[str, Any] = {}
    for file in folder.glob("*.safetensors"):
        theirs |= load_file(file)
    ours = {id(value): value for value in model.parameters()}.values()
    assert sum(value.numel() for value in ours) <= sum(value.numel() for value in theirs.values())
    embedding = theirs["model.embed_tokens.weight"].float()
    assert torch.equal(model.tokens.weight, embedding), "other numbers than safetensors reads"


def check_tokenizer(folder: Path) -> None:
    """Read it, encode, decode, and write down a conversation."""
    from langwright.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("the cat!  \n é 漢字 <|im_end|>")
    tokenizer.decode(ids)
    tokenizer.encode_chat([{"role": "user", "content": "the"}], add_generation_prompt=True)


def check_gguf(folder: Path) -> None:
    """Read the file with its tokenizer."""
    from langwright.formats import load_parts

    tokenizer = load_parts(next(folder.glob("*.gguf")))[1]
    if tokenizer is not None:
        tokenizer.decode(tokenizer.encode("the cat!"))


def check_openai(folder: Path) -> None:
    """Read OpenAI's folder with its tokenizer."""
    from langwright.formats import load_parts

    load_parts(folder)


def make_gguf(folder: Path) -> None:
    """A GGUF file with a tokenizer."""
    from langwright.formats import load_model
    from langwright.formats.gguf import save_gguf
    from langwright.generate import LanguageModel
    from langwright.model import ModelConfig, build_model
    from langwright.tokenizer import load_tokenizer

    small_tokenizer(folder / "tokenizer")
    tokenizer = load_tokenizer(folder / "tokenizer")
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, context_length=16, width=32, layers=1, heads=2
    )
    save_gguf(LanguageModel(build_model(config).eval(), tokenizer), folder / "small.gguf", "q8_0")
    shutil.rmtree(folder / "tokenizer")
    load_model(folder / "small.gguf")


def make_openai(folder: Path) -> None:
    """The tiny checkpoint that TensorFlow wrote, from the tests' data."""
    source = Path(__file__).resolve().parent.parent / "tests" / "formats" / "data" / "openai_tiny"
    shutil.copytree(source, folder, dirs_exist_ok=True)


# Reader: how the whole files are made, what reads them, which files are damaged, and how.
READERS: dict[str, tuple[Callable[[Path], None], Check, str, bool]] = {
    "safetensors": (small_model, check_model, "model.safetensors", False),
    "header": (small_model, check_model, "model.safetensors", True),
    "index": (
        lambda folder: small_model(folder, max_shard_bytes=3000),
        check_model,
        "model.safetensors.index.json",
        True,
    ),
    "config": (small_model, check_model, "config.json", True),
    "tokenizer": (small_tokenizer, check_tokenizer, "tokenizer.json", True),
    "settings": (small_tokenizer, check_tokenizer, "tokenizer_config.json", True),
    "gguf": (make_gguf, check_gguf, "small.gguf", False),
    "tensorflow": (make_openai, check_openai, "model.ckpt.*", False),
    "openai": (make_openai, check_openai, "*.json", True),
}


def damage(rng: random.Random, original: bytes, reader: str, structured: bool) -> bytes:
    """A damaged copy: of the bytes, or (for JSON, mostly) of the values in it."""
    if reader == "header":  # JSON with its size in front, numbers behind
        size = int.from_bytes(original[:8], "little")
        text = mutate_json(rng, original[8 : 8 + size])
        return len(text).to_bytes(8, "little") + text + original[8 + size :]
    if structured and rng.random() < 0.8:
        return mutate_json(rng, original)
    return mutate(rng, original)


def run_reader(reader: str, count: int, seed: int) -> dict[str, Any]:
    """Damage and read `count` times, in this process."""
    from langwright.base import UserError

    make, check, pattern, structured = READERS[reader]
    rng = random.Random(f"{seed} {reader}")

    def ring(*_: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, ring)
    told: dict[str, Any] = {"refused": 0, "accepted": 0, "broken": 0, "bugs": [], "slowest": 0.0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        check(folder)  # the whole one is accepted, and everything is imported
        files = sorted(folder.glob(pattern))
        originals = {file: file.read_bytes() for file in files}
        start, room = status("VmRSS"), status("VmSize") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        for number in range(count):
            file = rng.choice(files)
            file.write_bytes(damage(rng, originals[file], reader, structured))
            outcome, seconds = attempt(check, folder, UserError)
            file.write_bytes(originals[file])
            told["slowest"] = max(told["slowest"], seconds)
            told[outcome if outcome in told else "broken"] += 1
            if outcome not in told and len(told["bugs"]) < 5:
                told["bugs"].append(f"file {number} of {reader}: {outcome}")
        told["memory"] = status("VmHWM") - start
    return told


def attempt(check: Check, folder: Path, expected: type[Exception]) -> tuple[str, float]:
    """What became of one file, and in how many seconds."""
    start = time.perf_counter()
    signal.alarm(SECONDS)
    try:
        check(folder)
        outcome = "accepted"
    except expected:
        outcome = "refused"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        outcome = f"{type(error).__name__}: {str(error)[:200]} ({last.filename}:{last.lineno})"
    signal.alarm(0)
    return outcome, time.perf_counter() - start


def status(name: str) -> int:
    """A counter of this process's memory, in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise SystemExit("this needs Linux's counters of memory")


def main() -> None:
    """Fuzz each reader in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(READERS))
    parser.add_argument("--count", type=int, default=10_000, help="damaged files for each reader")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same damage")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        print(json.dumps(run_reader(arguments.inside, arguments.count, arguments.seed)))
        return
    print(
        f"{'reader':12} {'refused':>8} {'accepted':>8} {'broken':>7} {'slowest':>9} {'memory':>9}"
    )
    broken = 0
    for reader in arguments.readers or READERS:
        command = [sys.executable, __file__, "--inside", reader]
        command += ["--count", str(arguments.count), "--seed", str(arguments.seed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            broken += 1
            print(f"{reader:12} the process died ({done.returncode}): {done.stderr[-1500:]}")
            continue
        told = json.loads(done.stdout.splitlines()[-1])
        broken += told["broken"]
        print(
            f"{reader:12} {told['refused']:8,} {told['accepted']:8,} {told['broken']:7,}"
            f" {told['slowest'] * 1000:6,.0f} ms {told['memory'] / 2**20:6,.0f} MB",
            flush=True,
        )
        for bug in told["bugs"]:
            print(f"    {bug}")
    raise SystemExit(1 if broken else 0)


if __name__ == "__main__":
    main()
