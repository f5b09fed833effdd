"""``langwright info``: this machine, a model, a run, or any artifact."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langwright.base import (
    Manifest,
    UserError,
    environment,
    human_seconds,
    machine,
    matmul_peak,
    read_json,
    read_manifest,
)


def info(arguments: argparse.Namespace) -> None:
    """Show what a folder holds; without one, the environment and the machine."""
    if arguments.folder is None:
        _machine()
        return
    folder = Path(arguments.folder)
    if not folder.is_dir():
        raise UserError("folder not found", where=folder)
    if (folder / "recipe.json").exists():
        _run(folder)
    elif (folder / "manifest.json").exists():
        _artifact(read_manifest(folder))
    elif (folder / "config.json").exists():
        _model(folder)
    elif (folder / "tokenizer.json").exists():
        _tokenizer(folder)
    else:
        raise UserError(
            "nothing here that Langwright knows",
            where=folder,
            expected="a model, a tokenizer, a run folder or an artifact",
        )


def _machine() -> None:
    """Versions, the machine and its measured rates; problems with the installation."""
    values = environment()
    packages = values.pop("packages")
    _table("Machine", {"use": machine().describe(), **_rates()})
    _table("Environment", {k: v for k, v in values.items() if v is not None})
    _table("Packages", packages)
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
    _table(
        f"Artifact of stage {manifest.stage}",
        {
            "made": manifest.created,
            "took": human_seconds(manifest.seconds),
            "code": manifest.code,
            "fingerprint": manifest.fingerprint,
            "files": f"{len(manifest.files)}",
        },
    )
    _table("Inputs", manifest.inputs)
    _table("Config", _flat(manifest.config))
    _table("Metrics", _flat(manifest.metrics))
    _table("Environment", _flat(manifest.environment))


def _model(folder: Path) -> None:
    """Architecture, counts, memory, module tree, tokenizer, provenance."""
    from langwright.formats import load_model
    from langwright.model import module_tree, summary

    model = load_model(folder)
    print(f"Model {folder}\n{_indented(summary(model.config))}\n")
    _table("Config", {k: v for k, v in model.config.to_json().items() if v is not None})
    print(f"Modules\n{_indented(module_tree(model))}\n")
    if (folder / "tokenizer.json").exists():
        _tokenizer(folder)
    if (folder / "provenance.json").exists():
        record = read_json(folder / "provenance.json")
        record.pop("recipe", None)
        _table("Provenance", _flat(record))


def _tokenizer(folder: Path) -> None:
    from langwright.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(folder)
    special = ", ".join(f"{name} {one}" for name, one in tokenizer.special_tokens.items())
    template = "yes" if tokenizer.chat_template else "no"
    _table(
        "Tokenizer",
        {
            "ids": f"{tokenizer.vocab_size:,}",
            "special": special or "none",
            "ends at": ", ".join(map(str, tokenizer.stop_ids)) or "nothing",
            "chat template": template,
        },
    )


def _chief(manifest: Manifest) -> list[tuple[str, Any]]:
    """The first few plain figures of a stage."""
    plain = [(k, v) for k, v in manifest.metrics.items() if isinstance(v, int | float)]
    return plain[:3]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        elif value is not None:
            flat[prefix + key] = value
    return flat


def _indented(text: str) -> str:
    return textwrap.indent(text, "  ")


def _short(value: float) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def _table(title: str, values: Mapping[str, Any]) -> None:
    if not values:
        return
    print(title)
    width = min(44, max(len(name) for name in values) + 2)
    for name, value in values.items():
        print(f"  {name.replace('_', ' '):<{width}}{value}")
    print()
