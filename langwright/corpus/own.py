"""Folders that this program has written: a corpus of `.` must not read them.

The held-out text of an earlier run would become training text, and its tables noise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

PARTIAL = ".partial"  # a stage or a download at work
# The file that marks a folder, and the keys that tell it from another program's of that name.
MARKS = {
    "manifest.json": {"stage", "key", "inputs", "files", "metrics"},  # of a stage
    "recipe.json": {"recipe", "file"},  # of a run
}
MOST_BYTES = 64 * 2**20


def is_own_folder(folder: Path) -> bool:
    """Whether `folder` is a run, an artifact, or one of them (or a model) still being made."""
    if folder.name.endswith(PARTIAL):
        return True
    return any(_has_keys(folder / name, keys) for name, keys in MARKS.items())


def own_folder_of(path: Path, entry: str) -> Path | None:
    """The outermost own folder from the one that the glob `entry` starts from down to `path`."""
    for folder in _inner_folders(path, entry):
        if is_own_folder(folder):
            return folder
    return None


def _inner_folders(path: Path, entry: str) -> Iterator[Path]:
    """`path` and the folders that hold it, as far as a pattern found them, the outermost first.

    What the pattern names without a wildcard was asked for by name and is not among them.
    """
    named = 0
    for part in Path(entry).expanduser().parts:
        if any(sign in part for sign in "*?["):
            break
        named += 1
    for length in range(named + 1, len(path.parts) + 1):
        yield Path(*path.parts[:length])


def _has_keys(path: Path, keys: set[str]) -> bool:
    try:
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return False
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(record, dict) and keys <= record.keys()
