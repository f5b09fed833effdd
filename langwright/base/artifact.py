"""Stages and the artifacts they leave on disk.

A stage is a plain function that fills a folder and returns metrics. `run_stage` gives it the
folder ``OUT.partial``, writes ``manifest.json`` into it when it is done, and renames it to ``OUT``:
a half-written artifact is never mistaken for a whole one. The partial folder survives an
interruption, so a stage that keeps checkpoints in it goes on where it stopped.
"""

from __future__ import annotations

import datetime
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from langwright.base.errors import UserError
from langwright.base.files import hash_json, read_json, sha256_file, write_json

MANIFEST = "manifest.json"
_KEY = "stage-key.json"


class Manifest(BaseModel):
    """What an artifact is and how it came to be."""

    stage: str
    key: str  # hash of config, inputs and code: the same key means the same result
    config: dict[str, Any]
    inputs: dict[str, str]  # name of the input -> fingerprint of its artifact
    files: dict[str, str]  # relative path -> SHA-256
    code: str
    environment: dict[str, Any]
    created: str
    seconds: float
    metrics: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Hash of the artifact's content: what a later stage depends on."""
        return hash_json([self.stage, self.files])


def read_manifest(folder: str | Path) -> Manifest:
    """The manifest of a finished artifact."""
    path = Path(folder) / MANIFEST
    if not path.exists():
        raise UserError(
            "this folder holds no finished artifact",
            where=folder,
            fix="run the stage that makes it",
        )
    try:
        return Manifest.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(f"broken manifest: {error.errors()[0]['msg']}", where=path) from None


def key_parts(
    stage: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str | Path] | None = None,
    version: str = "1",
    ignore: Collection[str] = (),
) -> dict[str, Any]:
    """Everything that decides what a stage makes; its hash is the artifact's key.

    `ignore` are settings, by dotted name, that do not decide it (``"pretrain.keep_last"``).
    """
    prints = {name: fingerprint(value) for name, value in (inputs or {}).items()}
    decisive = _without(config, ignore)
    return {"stage": stage, "config": decisive, "inputs": prints, "version": version}


def why_stale(
    out: str | Path, *, key_parts: Mapping[str, Any], ignore: Collection[str] = ()
) -> str | None:
    """Why a stage must run again; None if its artifact is there and still right."""
    path = Path(out) / MANIFEST
    if not path.exists():
        return "not made yet"
    try:
        old = read_manifest(out)
    except UserError as error:
        return f"its manifest cannot be read ({error.message})"
    if old.key == hash_json(key_parts):
        missing = [name for name in old.files if not (Path(out) / name).exists()]
        return f"{missing[0]} is missing" if missing else None
    change = _first_change(_without(old.config, ignore), key_parts["config"])
    if change is not None:
        return change
    for name in sorted({*old.inputs, *key_parts["inputs"]}):
        if old.inputs.get(name) != key_parts["inputs"].get(name):
            return f"its input {name!r} changed"
    return "the code that makes it changed"


def can_continue(out: str | Path, *, key_parts: Mapping[str, Any]) -> bool:
    """Whether an interrupted run of just this stage left work to go on with."""
    mark = Path(out).with_name(Path(out).name + ".partial") / _KEY
    return mark.exists() and read_json(mark).get("key") == hash_json(key_parts)


def _without(config: Mapping[str, Any], ignore: Collection[str], path: str = "") -> dict[str, Any]:
    """The config without the settings named in `ignore`."""
    kept: dict[str, Any] = {}
    for name, value in config.items():
        if path + name not in ignore:
            inner = isinstance(value, Mapping)
            kept[name] = _without(value, ignore, f"{path}{name}.") if inner else value
    return kept


def _first_change(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "") -> str | None:
    """The first setting that differs, with its full dotted name."""
    for name in [*new, *(key for key in old if key not in new)]:
        before, after, field = old.get(name), new.get(name), path + str(name)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            return _first_change(before, after, field + ".")
        return f"{field} changed from {_short(before)} to {_short(after)}"
    return None


def run_stage(
    stage: str,
    out: str | Path,
    work: Callable[[Path], dict[str, Any]],
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str | Path] | None = None,
    version: str = "1",
    ignore: Collection[str] = (),
    environment: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Manifest:
    """Run a stage unless its artifact is already there.

    Args:
        stage: its name (``"tokenizer"``).
        out: the artifact's folder.
        work: fills the folder it is given and returns metrics (plain JSON values).
        config: everything the result depends on, as plain JSON values.
        inputs: artifacts it reads, name to folder; or name to a fingerprint given as ``str``.
        version: changes when the stage's code gives another result for the same config.
        ignore: settings, by dotted name, that do not decide the result.
        environment: versions to write down; they do not decide whether a stage is stale.
        say: told in one line what happens and why.
    """
    out = Path(out)
    parts = key_parts(stage, config=config, inputs=inputs, version=version, ignore=ignore)
    reason = why_stale(out, key_parts=parts, ignore=ignore)
    if reason is None:
        say(f"{stage}: up to date")
        return read_manifest(out)
    key, partial = hash_json(parts), out.with_name(out.name + ".partial")
    if _is_finished(partial, key):  # killed between writing the manifest and the rename
        _replace_folder(partial, out)
        say(f"{stage}: up to date")
        return read_manifest(out)
    goes_on = can_continue(out, key_parts=parts)
    _open_partial(partial, key)
    say(f"{stage}: {'goes on where it was interrupted' if goes_on else reason}")
    started = time.perf_counter()
    before = _seconds_spent(partial)
    try:
        metrics = work(partial)
    finally:
        if partial.exists():
            seconds = before + time.perf_counter() - started
            write_json(partial / _KEY, {"key": key, "seconds": seconds})
    manifest = Manifest(
        stage=stage,
        key=key,
        config=dict(config),
        inputs=parts["inputs"],
        files=_hash_files(partial),
        code=version,
        environment=dict(environment or {}),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        metrics=metrics,
    )
    return _seal(partial, out, manifest)


def _seal(partial: Path, out: Path, manifest: Manifest) -> Manifest:
    """The artifact is whole: its manifest, then its place."""
    write_json(partial / MANIFEST, manifest.model_dump())
    (partial / _KEY).unlink()
    _replace_folder(partial, out)
    return manifest


def _is_finished(partial: Path, key: str) -> bool:
    path = partial / MANIFEST
    return path.exists() and read_manifest(partial).key == key


def _open_partial(partial: Path, key: str) -> None:
    """Make the partial folder, or empty it if it was begun under another config."""
    mark = partial / _KEY
    if partial.exists() and not (mark.exists() and read_json(mark).get("key") == key):
        shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    for leftover in partial.rglob(".*.tmp"):  # a file that was being written at a kill
        leftover.unlink()
    if not mark.exists():
        write_json(mark, {"key": key, "seconds": 0.0})


def _seconds_spent(partial: Path) -> float:
    return float(read_json(partial / _KEY).get("seconds", 0.0))


def _replace_folder(new: Path, out: Path) -> None:
    """Put `new` where `out` is. Between the two renames `out` is absent, never half written."""
    old = out.with_name(out.name + ".old")
    if old.exists():
        shutil.rmtree(old)
    if out.exists():
        os.replace(out, old)
    os.replace(new, out)
    shutil.rmtree(old, ignore_errors=True)


def _hash_files(folder: Path) -> dict[str, str]:
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name not in (MANIFEST, _KEY)
    )
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}


def fingerprint(value: str | Path) -> str:
    """Of an artifact: the one in its manifest. Of any other file or folder: made from its bytes.

    A `str` is a fingerprint already.
    """
    if isinstance(value, str):
        return value
    if (value / MANIFEST).exists():
        return read_manifest(value).fingerprint
    if value.is_dir():
        return hash_json(_hash_files(value))
    if value.is_file():
        return sha256_file(value)
    raise UserError("file or folder not found", where=value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
