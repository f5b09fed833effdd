"""Run the benchmarks one after another; what `make bench` calls.

    python benchmarks/run_all.py                       # all of them: over an hour
    python benchmarks/run_all.py --only throughput_10m # one
    python benchmarks/run_all.py --list
    python benchmarks/run_all.py --save results.json

Each is a script of its own, with options of its own (`--help`). A benchmark that fails does not
stop the others, but the exit status is 1.
"""

from __future__ import annotations

import argparse
import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from common import HERE

HELPERS = {"run_all", "common", "peer", "contenders"}


def benchmarks() -> dict[str, str]:
    """Name and first line of description of each benchmark here."""
    found = {}
    for path in sorted(HERE.glob("*.py")):
        if path.stem not in HELPERS:
            description = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem] = description.partition("\n")[0]
    return found


def run(name: str) -> dict[str, Any] | None:
    """Run one, showing what it prints; its last line as an object, None if it failed."""
    command = [sys.executable, str(HERE / f"{name}.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        last = ""
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
    if process.returncode:
        return None
    try:
        return json.loads(last)
    except json.JSONDecodeError:
        return None


def main() -> int:
    """Run what was asked for; 1 if one failed."""
    found = benchmarks()
    parser = argparse.ArgumentParser(description="Run the benchmarks.")
    parser.add_argument("--only", choices=found, action="append", metavar="NAME", help="run this")
    parser.add_argument("--list", action="store_true", help="print the names and what they measure")
    parser.add_argument("--save", type=Path, help="write all results into this JSON file")
    options = parser.parse_args()
    if options.list:
        for name, description in found.items():
            print(f"{name:22} {description}")
        return 0
    results: dict[str, Any] = {}
    for name in options.only or found:
        print(f"\n=== {name}: {found[name]}", flush=True)
        results[name] = run(name)
        if options.save:
            options.save.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    failed = [name for name, result in results.items() if result is None]
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
