"""What was left out of a corpus, in one line for the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SHOWN = 3  # reasons in the line; the report has them all
WRONG_ENCODING = "not text in the expected encoding"
# The setting that lets in what was left out for this reason.
HELPS = {
    WRONG_ENCODING: "corpus.encoding",
    "not a text format": "corpus.text_extensions",
    "no text field": "corpus.text_field",
    "too short": "corpus.min_document_characters",
    "line too long": "corpus.max_record_bytes",
    "file too large to read at once": "corpus.max_record_bytes",
}


def skipped_line(report: Mapping[str, Any], encoding: str) -> str | None:
    """``17 skipped: 3 not utf-8 (latin1.txt ...): see report.json; corpus.encoding may help``.

    Args:
        report: of `build_corpus`.
        encoding: the one that was expected.

    Returns:
        None if nothing was left out.
    """
    skipped: Mapping[str, Any] = report.get("skipped") or {}
    if not skipped:
        return None
    parts = []
    for reason, found in list(skipped.items())[:SHOWN]:
        name = f"not {encoding}" if reason == WRONG_ENCODING else reason
        more = " ..." if found["count"] > 1 else ""
        parts.append(f"{found['count']:,} {name} ({_file(found['examples'][0])}{more})")
    if len(skipped) > SHOWN:
        parts.append("...")
    total = sum(found["count"] for found in skipped.values())
    settings = dict.fromkeys(HELPS[reason] for reason in skipped if reason in HELPS)
    help = f"; {', '.join(settings)} may help" if settings else ""
    return f"{total:,} skipped: {', '.join(parts)}: see report.json{help}"


def _file(example: str) -> str:
    """The file of an example ``file:line: detail``."""
    return re.sub(r":\d+$", "", example.split(": ", 1)[0])
