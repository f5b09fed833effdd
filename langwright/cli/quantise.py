"""``langwright quantise``: what a model loses and gains with 8-bit or 4-bit weights."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from langwright.base import UserError
from langwright.formats import model_in

MOST_TEXT_BYTES = 1 << 24


def quantise(arguments: argparse.Namespace) -> None:
    """Quantise a model in memory and tell its size; with ``--report`` its quality and speed."""
    from langwright.generate import (
        compare_quality,
        load,
        own_text,
        pack_model,
        read_bytes,
        stored_blocks,
    )

    path = model_in(arguments.folder)
    lm = load(path, device="cpu", dtype="fp32")
    stored = stored_blocks(path, lm.model)
    packed = pack_model(lm.model, arguments.to, stored=stored)
    if stored:
        print(f"{len(stored)} matrices are quantised in the file already and stay as they are")
    if not arguments.report:
        print(f"bytes read for a token {read_bytes(lm.model):,} -> {read_bytes(packed):,}")
        return
    if arguments.text:
        ids = lm.text_tokenizer.encode(_read(Path(arguments.text)))[: arguments.tokens]
    else:
        ids = own_text(lm, arguments.tokens)
    report = compare_quality(lm.model, packed, ids)
    print(json.dumps(asdict(report), indent=2) if arguments.json else "\n".join(report.lines()))


def _read(path: Path) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(MOST_TEXT_BYTES)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=path) from None
