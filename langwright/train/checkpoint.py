"""Checkpoints: folders that are whole or not there, and are checked before they are believed.

checkpoints/step-0000100/model.safetensors      weights, fp32
                         optimizer.safetensors  "<parameter>/<entry>" -> tensor
                         state.json             step, tokens, ..., sizes and hashes of the files
checkpoints/best/        model.safetensors, state.json

Where several processes train, each writes files of its own, and pieces.json tells what lies where
(`langwright.parallel.write_pieces`). Either kind can be gone on with by any number of processes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from langwright.base import UserError, read_json, sha256_file, write_json
from langwright.parallel import Alone, Piece, gather_json, read_whole, write_pieces

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
BEST = "best"
INDEX = "pieces.json"
FORMAT = 1


@dataclass
class Checkpoint:
    """A checkpoint that was found whole."""

    path: Path
    state: dict[str, Any]  # what was given to `save_checkpoint`

    def weights(self) -> dict[str, Tensor]:
        """The model's tensors, whole, on the CPU."""
        if (self.path / INDEX).exists():
            return read_whole(self.path, "model/")
        return load_file(self.path / MODEL)

    def optimizer(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state as `OptimizerSet.load_state_dict` takes it."""
        spread = (self.path / INDEX).exists()
        tensors = (
            read_whole(self.path, "optimizer/") if spread else load_file(self.path / OPTIMIZER)
        )
        return {"tensors": tensors, "scalars": self.state["optimizer_scalars"]}


def save_checkpoint(
    folder: Path,
    step: int,
    model: nn.Module | dict[str, Tensor],
    optimizer: dict[str, dict[str, Any]],
    state: dict[str, Any],
) -> Path:
    """Write ``folder/step-<step>`` by atomic rename; `state` is plain JSON, `model` a model or its
    weights by name."""
    state = {**state, "step": step, "optimizer_scalars": optimizer["scalars"]}
    tensors: dict[str, dict[str, Tensor] | Path] = {
        MODEL: model if isinstance(model, dict) else model_tensors(model),
        OPTIMIZER: optimizer["tensors"],
    }
    return _write_folder(folder / f"step-{step:07d}", tensors, state)


def save_pieces(
    folder: Path,
    step: int,
    pieces: Mapping[str, Piece],
    scalars: dict[str, Any],
    state: dict[str, Any],
    group: Any,
) -> None:
    """As `save_checkpoint`, by all processes together, each its part (see `write_pieces`).

    Args:
        folder: one that all processes see.
        pieces: of weights ("model/...") and of the optimizer's state ("optimizer/...").
        scalars: of the optimizer's state, on this process.
        state: the first process's counts.
        group: of CPUs, used by nothing else meanwhile.
    """
    path = folder / f"step-{step:07d}"
    files = write_pieces(_partial(path), pieces, group)
    every = gather_json(scalars, group)
    if files:
        state = {**state, "step": step, "optimizer_scalars": dict(ChainMap(*every))}
        _complete(path, files, state)


def save_best_pieces(
    folder: Path, pieces: Mapping[str, Piece], state: dict[str, Any], group: Any
) -> None:
    """As `save_best`, by all processes together; `pieces` are those of the weights."""
    files = write_pieces(_partial(folder / BEST), pieces, group)
    if files:
        _complete(folder / BEST, files, state)


def save_best(folder: Path, model: nn.Module | dict[str, Tensor], state: dict[str, Any]) -> Path:
    """Write ``folder/best``, replacing the one that was there.

    The weights are linked rather than written again if the checkpoint of this step exists.
    """
    source = folder / f"step-{state['step']:07d}" / MODEL
    own = model if isinstance(model, dict) else model_tensors(model)
    tensors = source if source.exists() else own
    return _write_folder(folder / BEST, {MODEL: tensors}, state)


def newest_checkpoint(
    folder: Path, say: Callable[[str], None], form: Alone | None = None
) -> Checkpoint | None:
    """The newest whole checkpoint; broken ones are passed over, with the reason told.

    Args:
        folder: of the checkpoints.
        say: told what was passed over.
        form: the processes that call this together; each checks some of the files.
    """
    form = form or Alone(nn.Module())
    if form.first:
        clear_leftovers(folder)
    names = form.agree([path.name for path in reversed(list(step_folders(folder)))])
    for name in names:
        found, problem = None, None
        try:
            found = open_checkpoint(folder / name, form.rank, form.size)
        except UserError as error:
            problem = error.message
        problems = [text for text in form.gather(problem) if text is not None]
        if found is not None and not problems:
            return found
        say(f"passing over {name}: {problems[0]}")
    return None


def open_checkpoint(path: Path, rank: int = 0, size: int = 1) -> Checkpoint:
    """Check sizes and hashes of a checkpoint's files.

    Args:
        path: its folder.
        rank, size: hash only this one of so many shares of the files.

    Raises:
        UserError: it is not whole.
    """
    record = read_json(path / STATE)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError("its state.json has another format", where=path)
    for number, (name, expected) in enumerate(sorted(record["files"].items())):
        file = path / name
        if not file.exists():
            raise UserError(f"{name} is missing", where=path)
        if file.stat().st_size != expected["bytes"]:
            found = file.stat().st_size
            raise UserError(f"{name} has {found} bytes, not {expected['bytes']}", where=path)
        if number % size == rank and sha256_file(file) != expected["sha256"]:
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


def keep_newest(folder: Path, count: int, every: int | None = None) -> None:
    """Delete all but the `count` newest checkpoints and those of multiples of `every` steps."""
    for path in list(step_folders(folder))[:-count]:
        if not every or int(path.name.removeprefix("step-")) % every:
            _remove(path)


def clear_leftovers(folder: Path) -> None:
    """Delete what a killed process left half written or half deleted.

    What was whole but for its name gets it, if the one that it was to replace is gone.
    """
    for partial in sorted(folder.glob(".*.partial"), key=lambda path: ".old." in path.name):
        path = partial.with_name(partial.name.split(".")[1])
        if (partial / STATE).exists() and not path.exists():
            os.replace(partial, path)
        else:
            shutil.rmtree(partial, ignore_errors=True)


def _write_folder(
    path: Path, files: dict[str, dict[str, Tensor] | Path], state: dict[str, Any]
) -> Path:
    partial = _partial(path)
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
    return _complete(path, hashes, state)


def _partial(path: Path) -> Path:
    """Where a checkpoint is written before it gets its name."""
    return path.with_name(f".{path.name}.partial")


def _complete(path: Path, files: dict[str, Any], state: dict[str, Any]) -> Path:
    """Write down what is in a partial folder, and give it its name."""
    partial = _partial(path)
    write_json(partial / STATE, {"format": FORMAT, "state": state, "files": files})
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
