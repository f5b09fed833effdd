"""One run at a time in a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from langwright.base import UserError


@contextlib.contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the operating system lets go of it even after a kill."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock; there the folder is not guarded
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise UserError(
                "another run is at work in this folder",
                where=folder,
                found=f"process {owner}",
                fix="wait for it, stop it, or choose another name with --name",
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
