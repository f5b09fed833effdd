"""``langwright get``: fetch a model."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from langwright.base import UserError, human_bytes, human_count, say
from langwright.formats import fetch_model, peek_model, peek_tokenizer
from langwright.model import parameter_count


def get(arguments: argparse.Namespace) -> None:
    """Fetch the model and say what it is and what can be done with it."""
    done = fetch_model(
        arguments.name, arguments.to, revision=arguments.revision, file=arguments.file
    )
    peek = peek_model(done.folder)
    count = parameter_count(peek.config).total
    print(
        f"{done.folder}{' (was there already)' if done.already else ''}\n"
        f"  {peek.family}, {human_count(count)} parameters, {human_bytes(peek.bytes)} "
        f"({peek.type}), licence {done.provenance.get('licence') or 'not told'}"
    )
    if revision := done.provenance.get("revision"):
        print(f"  revision {revision}")
    place = shlex.quote(str(done.folder))
    print(f"next: langwright info {place}")
    print(f"      langwright {_use(done.folder)} {place}")


def _use(folder: Path) -> str:
    """The command that fits the model; a tokenizer that is missing or broken is told of."""
    try:
        tokenizer = peek_tokenizer(folder)
    except UserError as error:
        say(f"note: the tokenizer cannot be read: {error.render()}")
        return "export"
    if tokenizer is None:
        say("note: the model has no tokenizer.json; without one it only takes ids")
        return "export"
    return "generate" if tokenizer.chat_template is None else "chat"
