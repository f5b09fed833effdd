"""Checkpoints: folders that are whole or not there, and are checked before they are believed.

checkpoints/step-0000100/model.safetensors      weights, fp32
                         optimizer.safetensors  "<parameter>/<entry>" -> tensor
                         state.json             step, tokens, ..., sizes and hashes of the files
checkpoints/best/        model.safetensors, state.json
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from langwright.base import UserError, read_json, sha256_file, write_json

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
BEST = "best"
FORMAT = 1


@dataclass
class Checkpoint:
    """A checkpoint that was found whole."""

    path: Path
    state: dict[str, Any]  # what was given to `save_checkpoint`

    def weights(self) -> dict[str, Tensor]:
        """The model's tensors, on the CPU."""
        return load_file(self.path / MODEL)

    def optimizer(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state as `OptimizerSet.load_state_dict` takes it."""
        return {
            "tensors": load_file(self.path / OPTIMIZER),
            "scalars": self.state["optimizer_scalars"],
        }


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: dict[str, dict[str, Any]],
    state: dict[str, Any],
) -> Path:
    """Write ``folder/step-<step>`` by atomic rename; `state` is plain JSON."""
    state = {**state, "step": step, "optimizer_scalars": optimizer["scalars"]}
    tensors: dict[str, dict[str, Tensor] | Path] = {
        MODEL: model_tensors(model),
        OPTIMIZER: optimizer["tensors"],
    }
    return _write_folder(folder / f"step-{step:07d}", tensors, state)


def save_best(folder: Path, model: nn.Module, state: dict[str, Any]) -> Path:
    """Write ``folder/best``, replacing the one that was there.

    The weights are linked rather than written again if the checkpoint of this step exists.
    """
    source = folder / f"step-{state['step']:07d}" / MODEL
    tensors = source if source.exists() else model_tensors(model)
    return _write_folder(folder / BEST, {MODEL: tensors}, state)


def newest_checkpoint(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint; broken ones are passed over, with the reason told."""
    clear_leftovers(folder)
    for path in reversed(list(step_folders(folder))):
        try:
            return open_checkpoint(path)
        except UserError as error:
            say(f"passing over {path.name}: {error.message}")
    return None


def open_checkpoint(path: Path) -> Checkpoint:
    """Check sizes and hashes of a checkpoint's files.

    Raises:
        UserError: it is not whole.
    """
    record = read_json(path / STATE)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError("its state.json has another format", where=path)
    for name, expected in record["files"].items():
        file = path / name
        if not file.exists():
            raise UserError(f"{name} is missing", where=path)
        if file.stat().st_size != expected["bytes"]:
            found = file.stat().st_size
            raise UserError(f"{name} has {found} bytes, not {expected['bytes']}", where=path)
        if sha256_file(file) != expected["sha256"]:
            raise UserError(f"{name} does not have the content that was written", where=path)
    return Checkpoint(path, record["state"])


def restore_model(model: nn.Module, weights: dict[str, Tensor], where: object = None) -> None:
    """Copy saved weights into the model; names and shapes must be its own."""
    own = model_tensors(model)
    if own.keys() != weights.keys():
        odd = sorted(own.keys() ^ weights.keys())
        raise UserError("the saved weights belong to another model", where=where, found=odd[0])
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != weights[name].shape:
                raise UserError(
                    f"the saved {name} has another shape",
                    where=where,
                    found=tuple(weights[name].shape),
                    expected=tuple(tensor.shape),
                )
            tensor.copy_(weights[name])


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name, each tensor once (tied ones under their first name)."""
    seen: set[int] = set()
    tensors = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            tensors[name] = tensor.detach()
    return tensors


def step_folders(folder: Path) -> Iterator[Path]:
    """The checkpoints of a folder, oldest first, whole or not."""
    yield from sorted(path for path in folder.glob("step-*") if path.is_dir())


def keep_newest(folder: Path, count: int) -> None:
    """Delete all but the `count` newest checkpoints."""
    for path in list(step_folders(folder))[:-count]:
        _remove(path)


def clear_leftovers(folder: Path) -> None:
    """Delete what a killed process left half written or half deleted."""
    for path in folder.glob(".*.partial"):
        shutil.rmtree(path, ignore_errors=True)


def _write_folder(
    path: Path, files: dict[str, dict[str, Tensor] | Path], state: dict[str, Any]
) -> Path:
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    hashes = {}
    for name, content in files.items():
        target = partial / name
        if isinstance(content, Path):
            _link(content, target)
        else:
            save_file({key: tensor.contiguous() for key, tensor in content.items()}, target)
            _sync(target)
        hashes[name] = {"bytes": target.stat().st_size, "sha256": sha256_file(target)}
    write_json(partial / STATE, {"format": FORMAT, "state": state, "files": hashes})
    _remove(path)
    os.replace(partial, path)
    _sync(path.parent)
    return path


def _remove(path: Path) -> None:
    """Take a folder out of sight in one step, then delete it."""
    if path.exists():
        doomed = path.with_name(f".{path.name}.old.partial")
        shutil.rmtree(doomed, ignore_errors=True)
        os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems refuse it on folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
