"""Which files of a folder or repository are fetched: text and safe weights, never a pickle."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from typing import Any

from langwright.base import UserError
from langwright.formats.openai_files import NAMES as OPENAI
from langwright.formats.shards import INDEX, PICKLES, SHARD_NAME, WEIGHTS

CONFIG = "config.json"
SMALL = (
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "README.md",
)
LEGAL = re.compile(r"(LICENSE|LICENCE|NOTICE|COPYING|USE_POLICY)[\w.-]{0,40}", re.IGNORECASE)
GGUF_NAME = re.compile(r"[\w][\w.+-]{0,200}\.gguf")


def choose_files(
    names: Iterable[str],
    read_index: Callable[[], Any],
    where: object,
    file: str | None = None,
) -> tuple[list[str], list[str]]:
    """(small files, weights) to fetch out of `names`, all of them in the top folder.

    Args:
        names: what there is, as the source tells it (not trusted).
        read_index: gives the content of the index of a split model.
        where: the source, for errors.
        file: a .gguf file that was asked for by name.

    Raises:
        UserError: there are only pickles, nothing, or several models to choose from.
    """
    present = {name for name in names if re.fullmatch(r"[\w][\w.+-]{0,250}", name)}
    small = sorted(name for name in present if name in SMALL or LEGAL.fullmatch(name))
    ggufs = sorted(name for name in present if GGUF_NAME.fullmatch(name))
    if file is not None:
        if file not in ggufs:
            raise UserError(
                "there is no such .gguf file",
                where=where,
                found=file,
                expected=", ".join(ggufs[:12]) or "none is there",
            )
        return _beside_gguf(small), [file]
    if WEIGHTS in present:
        return small, [WEIGHTS]
    if INDEX in present:
        return [*small, INDEX], _shards(read_index(), present, where)
    if "hparams.json" in present:
        return sorted(present & set(OPENAI)), []
    if len(ggufs) == 1:
        return _beside_gguf(small), ggufs
    if ggufs:
        raise UserError(
            "there are several models to choose from",
            where=where,
            found=", ".join(ggufs[:12]),
            fix=f"name one: --file {ggufs[0]}",
        )
    raise _nothing_safe(present, where)


def _nothing_safe(present: set[str], where: object) -> UserError:
    """Why nothing of what there is can be fetched."""
    pickles = sorted(n for n in present if any(fnmatch.fnmatch(n, p) for p in PICKLES))
    if pickles:
        return UserError(
            "the weights are Python pickles only, which can run code when they are read; "
            "Langwright never opens one",
            where=where,
            found=", ".join(pickles[:5]),
            expected=WEIGHTS,
            fix="ask the owner for safetensors, or convert it where you trust it (transformers' "
            "save_pretrained writes safetensors) and give the folder",
        )
    return UserError(
        "there is no model here",
        where=where,
        found=", ".join(sorted(present)[:8]) or "no files",
        expected=f"{WEIGHTS} or a .gguf file",
    )


def _beside_gguf(small: list[str]) -> list[str]:
    """A .gguf file holds its own config and tokenizer; a config.json beside it would hide it."""
    return [name for name in small if name == "README.md" or LEGAL.fullmatch(name)]


def _shards(index: Any, present: set[str], where: object) -> list[str]:
    """The files that an index names."""
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise UserError("the index of the weights is empty", where=f"{where} {INDEX}")
    shards = sorted({str(name) for name in places.values()})
    for name in shards:
        if not SHARD_NAME.fullmatch(name) or name not in present:
            raise UserError(
                "the index names a file that is not there, or that is no part of a model",
                where=f"{where} {INDEX}",
                found=name[:200],
                expected="model-00001-of-00002.safetensors and the like",
            )
    return shards
