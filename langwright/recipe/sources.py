"""When the raw files of a corpus change: a fingerprint without reading them."""

from __future__ import annotations

import glob
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from langwright.base import hash_json
from langwright.corpus import CorpusConfig, is_own_folder, own_folder_of

OWN_SOURCES = ("python-docs", "python-source")


def source_fingerprint(config: CorpusConfig) -> str:
    """Changes when a file is added, removed or written, or when Python itself is another.

    Names, sizes and times of the last change stand for the bytes: a corpus may be far too large to
    be read twice. A hub data set is named by its address only. Folders that a run made are left
    out, as the corpus leaves them out: a run inside its own source would never be up to date.
    """
    entries = list(config.sources)
    if config.conversations not in ("auto", "none"):
        entries.append(config.conversations)
    return hash_json([[entry, list(_states(entry))] for entry in entries])


def _states(entry: str) -> Iterator[list[object]]:
    if entry in OWN_SOURCES:
        yield [platform.python_implementation(), platform.python_version(), platform.system()]
        return
    if entry.startswith("hf://"):
        return
    path = Path(entry).expanduser()
    found = [str(path)] if path.exists() else glob.glob(str(path), recursive=True)  # noqa: PTH207
    for match in sorted(map(Path, found)):
        if own_folder_of(match, str(path)) is not None:
            continue
        for file in _files(match):
            try:
                status = file.stat()
            except OSError:
                continue
            yield [str(file), status.st_size, status.st_mtime_ns]


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, inner, names in os.walk(path):
        inner[:] = sorted(name for name in inner if not is_own_folder(Path(folder) / name))
        for name in sorted(names):
            yield Path(folder) / name
