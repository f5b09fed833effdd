"""Files from strangers: bounded in size and in what they unfold to, before they are parsed.

`read_json` is for files of our own. A file of somebody else's may be a pipe that never ends, a
hundred gigabytes, or a few megabytes of brackets that become gigabytes of Python objects.
"""

from __future__ import annotations

import json
import re
import stat
from pathlib import Path
from typing import Any

from langwright.base.errors import UserError

# An empty list or table takes two bytes of JSON and 64 of memory or more.
MOST_CONTAINERS = 4_000_000
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def regular_file_size(path: str | Path) -> int:
    """Bytes of a regular file (links are followed: caches of models are full of them).

    Raises:
        UserError: it is not there, or it is a folder, a pipe, a device.
    """
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("file not found", where=path) from None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", where=path) from None
    if not stat.S_ISREG(status.st_mode):
        raise UserError("not a regular file", where=path, expected="a file, or a link to one")
    return status.st_size


def read_untrusted(path: str | Path, most_bytes: int) -> bytes:
    """The bytes of a regular file that has at most `most_bytes`."""
    size = regular_file_size(path)
    if size > most_bytes:
        raise UserError(
            "the file is far too large for its kind",
            where=path,
            found=f"{size:,} bytes",
            expected=f"at most {most_bytes:,} bytes",
        )
    try:
        with open(path, "rb") as file:
            return file.read(most_bytes)
    except OSError as error:
        raise UserError(f"cannot be read: {error}", where=path) from None


def parse_untrusted_json(
    data: bytes, where: object, *, unique_names: bool = False
) -> dict[str, Any]:
    """The JSON object in `data`.

    Args:
        data: UTF-8.
        where: named in the errors.
        unique_names: refuse a table that has a name twice (JSON lets the last one win).
    """
    containers = data.count(b"{") + data.count(b"[")
    if containers > MOST_CONTAINERS:
        raise UserError(
            "this JSON holds far too many lists and tables",
            where=where,
            found=f"{containers:,}",
            expected=f"at most {MOST_CONTAINERS:,}",
        )
    hook = _once_each if unique_names else None
    try:
        table = json.loads(data.decode("utf-8"), object_pairs_hook=hook)
        if _SURROGATE.search(data):  # most are halves of a pair, as they should be
            json.dumps(table, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise UserError(f"not valid JSON: {error.msg}", where=f"{where}:{error.lineno}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a name twice, endless digits
        raise UserError(f"not valid JSON: {str(error)[:200]}", where=where) from None
    if not isinstance(table, dict):
        raise UserError("not a JSON object", where=where, expected="{ ... }")
    return table


def read_untrusted_json(
    path: str | Path, most_bytes: int, *, unique_names: bool = False
) -> dict[str, Any]:
    """The JSON object in a file from a stranger; see the functions above."""
    return parse_untrusted_json(read_untrusted(path, most_bytes), path, unique_names=unique_names)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in table if names.count(name) > 1)
        raise ValueError(f"the name {twice[:80]!r} stands twice in one table")
    return table
