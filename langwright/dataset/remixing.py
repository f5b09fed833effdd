"""Other shares from a certain row on: each source goes on where it stood."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from langwright.base import UserError, hash_json, nearest
from langwright.dataset.batch import RowArrays
from langwright.dataset.mixing import MixedRows, merge


class RemixedRows(MixedRows):
    """Like `before` up to row `start`, then mixed by other weights.

    Rows keep their numbers, and a source goes on with its next row: nothing is seen again before
    its time. Made by `remix`.
    """

    def __init__(self, before: MixedRows, weights: Mapping[str, float], start: int) -> None:
        known = before.known
        names = list(known)
        super().__init__(
            list(known.values()),
            [weights.get(name, 0.0) for name in names],
            names=names,
            seed=before.seed,
            block_rows=before.block_rows,
        )
        self.before, self.start = before, start
        drawn = before.drawn(start)
        self.offsets = np.array([drawn.get(name, 0) for name in self.names], dtype=np.int64)
        self.fingerprint = hash_json([before.fingerprint, self.quotas.tolist(), self.names, start])

    def sources(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of rows from `start` on; see `MixedRows.sources`."""
        source, inner = super().sources(indices - self.start)
        return source, inner + self.offsets[source]

    def gather(self, indices: np.ndarray) -> RowArrays:
        """The rows with these numbers; those before `start` come from the earlier mix."""
        early = indices < self.start
        if not early.any():
            return super().gather(indices)
        if early.all():
            return self.before.gather(indices)
        parts = [
            (np.nonzero(here)[0], rows(indices[here]))
            for here, rows in ((early, self.before.gather), (~early, super().gather))
        ]
        return merge(parts, len(indices), self.sequence_length)

    def drawn(self, rows: int) -> dict[str, int]:
        """How many rows of each source are among the first `rows`."""
        if rows <= self.start:
            return self.before.drawn(rows)
        early = self.before.drawn(self.start)
        late = super().drawn(rows - self.start)
        return {name: early.get(name, 0) + late.get(name, 0) for name in {**early, **late}}


def remix(rows: MixedRows, weights: Mapping[str, float], start: int) -> RemixedRows:
    """`rows` up to row `start`, then mixed by `weights` (by source name; one left out gets 0).

    Raises:
        UserError: a name that is no source, or no weight above 0.
    """
    for name in weights:
        if name not in rows.known:
            guess = nearest(name, list(rows.known))
            raise UserError(
                "a weight is given for a source that is not there",
                where="mix",
                found=name,
                expected="one of " + ", ".join(rows.known),
                fix=f"did you mean {guess!r}?" if guess else "remove it from mix",
            )
    return RemixedRows(rows, weights, start)
