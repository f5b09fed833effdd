"""From a dataset folder to the rows that a training run reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from langwright.base import UserError, nearest, seed_for
from langwright.dataset.config import DatasetConfig, Packing
from langwright.dataset.mixing import MixedRows
from langwright.dataset.packed import PackedRows
from langwright.dataset.rows import Rows
from langwright.dataset.shards import TokenShards, TokenStream
from langwright.dataset.windows import RandomChunkRows, WindowRows


def open_rows(
    dataset: str | Path | TokenShards,
    split: str = "train",
    *,
    kind: Packing | None = None,
    sequence_length: int | None = None,
    seed: int | None = None,
    weights: Mapping[str, float] | None = None,
    stride: int | None = None,
    shuffle: bool | None = None,
    drop_last: bool | None = None,
    min_length: int | None = None,
    long_documents: str | None = None,
) -> Rows:
    """Rows of a split: one kind of rows for each source, mixed by weight.

    Every argument that is None is taken from the dataset's config. `kind` is the config's
    `packing`.

    Raises:
        UserError: unknown split or source, a weight missing, too little text.
    """
    shards = dataset if isinstance(dataset, TokenShards) else TokenShards(dataset)
    given = {
        "packing": kind,
        "sequence_length": sequence_length,
        "seed": seed,
        "weights": None if weights is None else dict(weights),
        "stride": stride,
        "shuffle": shuffle,
        "drop_last": drop_last,
        "min_length": min_length,
        "long_documents": long_documents,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if kind is not None:  # the config's options of another kind do not apply
        for name, owner in (("stride", "windows"), ("min_length", "random")):
            if kind != owner:
                changes.setdefault(name, None)
    config = shards.meta.config.replace(**changes)
    names = shards.sources(split)
    shares = source_weights(config.weights, names, where=f"{shards.folder} split {split!r}")
    rows: dict[str, Rows] = {}
    for name in names:
        try:
            rows[name] = rows_of(shards.stream(split, name), config)
        except UserError:
            if shares is None or shares[name] > 0:
                raise  # else it is left out, and too short to be mixed in later
    if len(rows) == 1:
        return next(iter(rows.values()))
    return MixedRows(
        list(rows.values()),
        [
            float(part.epoch_rows or 0) if shares is None else shares[name]
            for name, part in rows.items()
        ],
        names=list(rows),
        seed=seed_for(config.seed, "mix"),
    )


def open_training_rows(
    dataset: str | Path | TokenShards, split: str = "train", seed: int | None = None
) -> Rows:
    """The rows that the dataset's config describes, in the order that `seed` decides."""
    return open_rows(dataset, split, seed=seed)


def rows_of(stream: TokenStream, config: DatasetConfig) -> Rows:
    """The rows of one source, as `config` says."""
    seed = seed_for(config.seed, "source", stream.name)
    length, shuffle = config.sequence_length, config.shuffle
    try:
        if config.packing == "documents":
            return PackedRows(
                stream,
                stream.offsets,
                length,
                head=stream.head,
                seed=seed,
                shuffle=shuffle,
                long=config.long_documents,
            )
        if config.packing == "random":
            return RandomChunkRows(stream, length, seed=seed, min_length=config.min_length)
        return WindowRows(
            stream,
            length,
            stride=config.stride,
            seed=seed,
            shuffle=shuffle,
            drop_last=config.drop_last,
        )
    except UserError as error:
        raise UserError(
            error.message,
            where=f"source {stream.name!r}, split {stream.split!r}",
            found=error.found,
            expected=error.expected,
            fix=error.fix,
        ) from None


def source_weights(
    weights: Mapping[str, float], names: list[str], *, where: object = None
) -> dict[str, float] | None:
    """The weight of each source; None if none were given (they are then mixed by size).

    A weight for a source that is not there, or a source without a weight, is a `UserError`.
    """
    if not weights:
        return None
    for name in weights:
        if name not in names:
            guess = nearest(name, names)
            raise UserError(
                "a weight is given for a source that is not there",
                where=where,
                found=name,
                expected="one of " + ", ".join(names),
                fix=f"did you mean {guess!r}?" if guess else "remove it from weights",
            )
    for name in names:
        if name not in weights:
            raise UserError(
                "a source has no weight",
                where=where,
                found=name,
                expected="a weight for every source",
                fix="add it to weights (0 leaves the source out)",
            )
    if not any(weights.values()):
        raise UserError("every source has weight 0", where=where, fix="give one a weight")
    return dict(weights)
