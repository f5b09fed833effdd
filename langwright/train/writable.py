"""Whether a folder can be written: better asked at the beginning than found out after an hour."""

from __future__ import annotations

from pathlib import Path

from langwright.base import UserError
from langwright.parallel import Alone


def check_writable(folder: Path, form: Alone, what: str) -> None:
    """Make `folder`, and write a file there to see. All processes call this together.

    Args:
        what: would be written there; for the message.

    Raises:
        UserError: some process cannot write there; on all of them.
    """
    problem = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{form.rank}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        problem = error.strerror or str(error)
    for found in form.gather(problem):
        if found is not None:
            raise UserError(
                f"{what} cannot be written here: {found}",
                where=folder,
                fix="choose a folder that can be written",
            )
