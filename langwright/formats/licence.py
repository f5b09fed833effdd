"""The licence of a model, as its files tell it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEAD_BYTES = 1 << 16
FIRST_LINES = {
    "Apache License": "apache-2.0",
    "MIT License": "mit",
    "GNU GENERAL PUBLIC LICENSE": "gpl",
    "BSD 3-Clause License": "bsd-3-clause",
}


def licence_of(folder: Path, metadata: Mapping[str, Any] | None = None) -> str | None:
    """The short name of the licence; None if nothing tells it.

    Looked for in a GGUF's `metadata`, in the head of README.md (``license: apache-2.0``, the hub's
    model cards), then in the first lines of a file LICENSE.
    """
    told = (metadata or {}).get("general.license")
    if isinstance(told, str) and told:
        return told[:80]
    found = _of_card(_head(folder / "README.md"))
    if found is not None:
        return found
    for path in sorted(folder.glob("LICEN[SC]E*")):
        lines = [line.strip() for line in _head(path).splitlines() if line.strip()][:3]
        for start, name in FIRST_LINES.items():
            if any(line.startswith(start) for line in lines):
                return name
        if lines:
            return lines[0][:80]
    return None


def _of_card(text: str) -> str | None:
    """``license: ...`` between the two lines ``---`` that a model card begins with."""
    match = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    line = re.search(r"^license:[ \t]*([^\n#]+)", match[1], re.MULTILINE) if match else None
    value = line[1].strip().strip("'\"") if line else ""
    return value[:80] or None


def _head(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
