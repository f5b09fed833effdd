"""Whether a disk has room for what is about to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

from langwright.base import UserError, human_bytes


def check_room(folder: Path, size: int) -> None:
    """Raise unless `size` bytes, less what `folder` holds already, fit on its disk."""
    here = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    free, needed = shutil.disk_usage(folder).free, size - here
    if needed > free:
        raise UserError(
            "there is not enough room on the disk",
            where=folder,
            found=f"{human_bytes(free)} free",
            expected=human_bytes(needed),
            fix="give a folder on another disk",
        )
