"""From a fresh clone to the end of `make demo`: minutes, and bits per byte beside the classics.

The checkout is cloned into an empty folder (only what is committed is measured), then `make demo`
runs there: it creates its environment, installs, trains, evaluates and writes the report. The
clock starts before the clone. The table is read from the run's `evaluation.json`.

    python benchmarks/quickstart.py [--keep FOLDER]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import CHECKOUT, finish, table

CONTENDERS = {"model": "langwright", "xz": "xz -9e", "zstd": "zstd -19 --long=27"}


def run_demo(folder: Path) -> dict[str, Any]:
    """Clone, `make demo`; seconds of each, and the run's evaluation."""
    started = time.time()
    clone = folder / "langwright"
    subprocess.run(["git", "clone", "--quiet", "--no-local", str(CHECKOUT), str(clone)], check=True)
    cloned = time.time()
    log = folder / "demo.log"
    with open(log, "w", encoding="utf-8") as output:
        done = subprocess.run(
            ["make", "demo"],
            cwd=clone,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    ended = time.time()
    if done.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:]
        sys.exit("make demo failed:\n" + "\n".join(tail))
    run = clone / "runs" / "quickstart"
    evaluation = json.loads(one_file(run, "evaluation.json").read_text(encoding="utf-8"))
    return {
        "minutes": (ended - started) / 60,
        "clone_seconds": cloned - started,
        "stage_seconds": stage_seconds(run),
        "headline": evaluation["headline"],
        "bits_per_byte": evaluation["bits_per_byte"],
    }


def one_file(folder: Path, name: str) -> Path:
    """The newest file of this name below `folder`."""
    found = sorted(folder.rglob(name), key=lambda path: path.stat().st_mtime)
    if not found:
        sys.exit(f"no {name} below {folder}")
    return found[-1]


def stage_seconds(run: Path) -> dict[str, float]:
    """Seconds of each stage, from the manifests; what is left of the total went into installing."""
    seconds = {}
    for path in sorted(run.rglob("manifest.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(manifest.get("seconds"), int | float):
            seconds[path.parent.name] = manifest["seconds"]
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Fresh clone to the end of `make demo`.")
    parser.add_argument("--keep", type=Path, help="work in this empty folder and keep it")
    options = parser.parse_args()
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
        if any(options.keep.iterdir()):
            parser.error(f"{options.keep} is not empty")
        result = run_demo(options.keep.resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = run_demo(Path(folder))

    print(f"fresh clone to the end of make demo: {result['minutes']:.1f} minutes")
    stages = result["stage_seconds"]
    rest = 60 * result["minutes"] - sum(stages.values())
    rows = [[name, f"{seconds:.0f}"] for name, seconds in stages.items()]
    table(
        "Where the time went",
        ["stage", "seconds"],
        [*rows, ["installing, the rest", f"{rest:.0f}"]],
    )
    for scope, figures in result["bits_per_byte"].items():
        ours = figures["model"]["bits_per_byte"]
        rows = [
            [
                CONTENDERS.get(name, name),
                f"{row['bits_per_byte']:.3f}",
                f"{row['bits_per_byte'] / ours:.2f}x",
            ]
            for name, row in figures.items()
        ]
        table(f"Held-out text: {scope}", ["", "bits per byte", "it / langwright"], rows)
    finish("quickstart", result)


if __name__ == "__main__":
    main()
