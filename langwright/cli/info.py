"""``langwright info``: this machine, a model, a run, or any artifact."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langwright.base import (
    Manifest,
    UserError,
    environment,
    human_bytes,
    human_seconds,
    machine,
    matmul_peak,
    read_manifest,
)
from langwright.cli.tables import flat, print_table
from langwright.formats import holds_model


def info(arguments: argparse.Namespace) -> None:
    """Show what a folder holds; without one, the environment and the machine."""
    if arguments.folder is None:
        _machine()
        return
    folder = Path(arguments.folder)
    if folder.is_file() and folder.suffix == ".gguf":
        _model(folder)
        return
    if folder.exists() and not folder.is_dir():
        raise UserError(
            "this is a file that Langwright cannot describe",
            where=folder,
            found=_kind(folder),
            expected="a folder (a model, a tokenizer, a run or an artifact), or a .gguf file",
            fix=_instead(folder),
        )
    if not folder.is_dir():
        raise UserError("folder not found", where=folder)
    if (folder / "recipe.json").exists():
        _run(folder)
    elif (folder / "manifest.json").exists():
        _artifact(read_manifest(folder))
    elif holds_model(folder):
        _model(folder)
    elif (folder / "tokenizer.json").exists():
        _tokenizer(folder)
    else:
        raise UserError(
            "nothing here that Langwright knows",
            where=folder,
            expected="a model, a tokenizer, a run folder or an artifact",
        )


def _kind(path: Path) -> str:
    """What a file is, by its ending and size."""
    if not path.is_file():
        return "a device or a pipe"
    kind = f"a {path.suffix} file" if path.suffix else "a file without an ending"
    return f"{kind} of {human_bytes(path.stat().st_size)}"


def _instead(file: Path) -> str | None:
    """The command that tells about a file, if there is one."""
    if file.suffix == ".toml":
        return f"of a recipe: langwright plan {shlex.quote(str(file))}"
    marks = ("recipe.json", "manifest.json", "tokenizer.json")
    if holds_model(file.parent) or any((file.parent / mark).exists() for mark in marks):
        return f"of its folder: langwright info {shlex.quote(str(file.parent))}"
    return None


def _machine() -> None:
    """Versions, the machine and its measured rates; problems with the installation."""
    values = environment()
    packages = values.pop("packages")
    print_table("Machine", {"use": machine().describe(), **_rates()})
    print_table("Environment", {k: v for k, v in values.items() if v is not None})
    print_table("Packages", packages)
    problems = _problems(packages)
    if problems:
        print("Problems\n" + "\n".join(f"  {line}" for line in problems))


def _rates() -> dict[str, str]:
    return {
        f"matmul {dtype}": f"{matmul_peak(dtype) / 1e9:,.0f} GFLOP/s (measured)"
        for dtype in ("fp32", "bf16")
    }


def _problems(packages: Mapping[str, str]) -> list[str]:
    """What is missing or does not fit, with what to do."""
    import sys

    import torch

    found = []
    for name in ("torch", "numpy", "tokenizers", "tiktoken", "safetensors", "pydantic", "pyarrow"):
        if name not in packages:
            found.append(f"{name} is not installed: pip install {name}")
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if not (2, 11) <= version < (2, 14):
        found.append(f"torch {torch.__version__} is outside the tested range 2.11 to 2.13")
    if sys.platform == "linux" and torch.version.cuda and not torch.cuda.is_available():
        found.append("this torch is built for CUDA, but no GPU answers: check the driver")
    return found


def _run(folder: Path) -> None:
    """A run: its stages, then its model."""
    from langwright.recipe import open_run

    run = open_run(folder)
    print(f"Run {run.recipe.name}")
    for name, manifest in run.manifests.items():
        chief = ", ".join(f"{key} {_short(value)}" for key, value in _chief(manifest))
        print(f"  {name:<10} {human_seconds(manifest.seconds):>12}  {manifest.created}  {chief}")
    print()
    if (run.model / "config.json").exists():
        _model(run.model)


def _artifact(manifest: Manifest) -> None:
    """Everything its manifest says."""
    print_table(
        f"Artifact of stage {manifest.stage}",
        {
            "made": manifest.created,
            "took": human_seconds(manifest.seconds),
            "code": manifest.code,
            "fingerprint": manifest.fingerprint,
            "files": f"{len(manifest.files)}",
        },
    )
    print_table("Inputs", manifest.inputs)
    print_table("Config", flat(manifest.config))
    print_table("Metrics", flat(manifest.metrics))
    print_table("Environment", flat(manifest.environment))


def _model(path: Path) -> None:
    from langwright.cli.info_model import show_model

    show_model(path)


def _tokenizer(folder: Path) -> None:
    from langwright.cli.info_model import show_tokenizer
    from langwright.tokenizer import load_tokenizer

    show_tokenizer(load_tokenizer(folder))


def _chief(manifest: Manifest) -> list[tuple[str, Any]]:
    """The first few plain figures of a stage."""
    plain = [(k, v) for k, v in manifest.metrics.items() if isinstance(v, int | float)]
    return plain[:3]


def _short(value: float) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
