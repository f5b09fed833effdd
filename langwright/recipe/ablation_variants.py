"""What an ablation tries: a recipe's named variants, from a TOML file or the command line.

[baseline]                                  # the recipe itself, and what all runs share
set = ["pretrain.tokens=400_000"]
choose = ["optimizer.lr=0.01", "optimizer.lr=0.02"]   # the best one is taken

[variants.no-qk-norm]
about = "queries and keys as they come"
set = ["model.qk_norm=false"]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from langwright.base import Config, UserError
from langwright.recipe.toml import line_of, read_toml

BASELINE = "baseline"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


class Variant(Config):
    """One thing to try: settings that are changed, as after ``--set``."""

    about: str = Field("", description="what it is, in a few words")
    set: list[str] = Field([], description="settings, as after --set: 'optimizer.lr=0.01'")
    choose: list[str] = Field(
        [],
        description="settings to choose one of: each is tried on a seed that counts no further, "
        "and the one with the lowest validation loss is taken",
    )


class Variants(Config):
    """The file: what all runs share, and the variants by name."""

    baseline: Variant = Field(default_factory=Variant, description="changes that all runs share")
    variants: dict[str, Variant] = Field({}, description="what is compared to it")


def read_variants(file: str | Path | None, vary: Sequence[Sequence[str]] = ()) -> Variants:
    """The variants of a file and, after them, those of the command line.

    Args:
        file: a TOML file as above, or None.
        vary: variants of the command line, each a list of settings.

    Raises:
        UserError: the file is not one of variants, a name is unfit for a folder, nothing to vary.
    """
    found = Variants.parse({})
    if file is not None:
        values, lines = read_toml(Path(file))
        found = Variants.parse(values, where=file)
        for name in found.variants:
            line = line_of(lines, ("variants", name))
            _check_name(name, f"{file}:{line}" if line is not None else str(file))
    variants = dict(found.variants)
    for settings in vary:
        name = _name_of(settings)
        if name in variants:
            raise UserError("two variants of one name", where="--vary", found=name)
        variants[name] = Variant(set=list(settings))
    if not variants:
        raise UserError(
            "nothing to compare the recipe to",
            where="ablate",
            fix="give --over FILE, or --vary KEY=VALUE once or several times",
        )
    return found.replace(variants=variants)


def _check_name(name: str, where: str) -> None:
    if name == BASELINE or not _NAME.fullmatch(name):
        raise UserError(
            "a variant's name becomes a folder name",
            where=where,
            found=repr(name),
            expected=f"letters, digits, '-', '_' or '.', and not {BASELINE!r}",
        )


def _name_of(settings: Sequence[str]) -> str:
    """``["optimizer.name=adamw", "lr=0.01"]`` -> ``name-adamw_lr-0.01``: also a folder's name."""
    parts = []
    for text in settings:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(
                "cannot read this setting", where="--vary", found=text, expected="KEY=VALUE"
            )
        value = re.sub(r"[^A-Za-z0-9._]+", "-", value).strip("-._")
        parts.append(f"{key.strip().rpartition('.')[2]}-{value}")
    name = "_".join(parts)[:80]
    _check_name(name, "--vary")
    return name
