"""Drawing rows from several sources in given shares."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from langwright.base import UserError, hash_json, seed_for
from langwright.dataset.batch import RowArrays
from langwright.dataset.order import hash64
from langwright.dataset.rows import Rows

BLOCK_ROWS = 4096
_BLOCKS_KEPT = 4


class MixedRows(Rows):
    """Rows of several sources, mixed by weight rather than by size.

    Rows are dealt in blocks of `block_rows`. Every block holds the same whole number of rows of
    each source (its quota: the weight to 1 part in `block_rows`, at least one row), in an order
    of its own. Inside a block a source's rows are spread evenly, so that shares hold over any
    stretch, not only over whole blocks. The j-th row drawn from a source is that source's row j:
    small sources repeat, pass after pass; big ones are partly used.

    Args:
        rows: the sources, of equal sequence length.
        weights: their shares, in any unit; 0 leaves one out.
        names: their names, for reports.
        seed: decides the order within blocks.
        block_rows: rows in a block.
    """

    def __init__(
        self,
        rows: Sequence[Rows],
        weights: Sequence[float],
        *,
        names: Sequence[str] | None = None,
        seed: int = 0,
        block_rows: int = BLOCK_ROWS,
    ) -> None:
        names = [f"source {i}" for i in range(len(rows))] if names is None else list(names)
        if not len(rows) == len(weights) == len(names):
            raise ValueError("rows, weights and names differ in number")
        if any(not weight >= 0 for weight in weights) or not any(weights):
            raise UserError("weights must be 0 or more, one of them positive", found=list(weights))
        used = [i for i, weight in enumerate(weights) if weight > 0]
        self.known = dict(zip(names, rows))  # with those left out: a later mix may name them
        self.rows = [rows[i] for i in used]
        self.names = [names[i] for i in used]
        lengths = {source.sequence_length for source in self.rows}
        if len(lengths) != 1:
            raise ValueError(f"sources of different sequence lengths: {sorted(lengths)}")
        if len(used) > block_rows:
            raise ValueError(f"{len(used)} sources do not fit a block of {block_rows} rows")
        self.sequence_length = lengths.pop()
        self.block_rows, self.seed = block_rows, seed
        self.quotas = quotas([weights[i] for i in used], block_rows)
        passes = [source.epoch_rows for source in self.rows]
        self.epoch_rows = None if None in passes else sum(passes)  # type: ignore[arg-type]
        self._source = np.repeat(np.arange(len(used)), self.quotas)  # (block,) before ordering
        self._pick = np.concatenate([np.arange(quota) for quota in self.quotas])
        self._blocks: OrderedDict[int, np.ndarray] = OrderedDict()
        self.fingerprint = hash_json(
            ["mixed", [source.fingerprint for source in self.rows], self.quotas.tolist(), seed]
        )

    def sources(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each row: which source it comes from, and which row of that source. int64 (N,)."""
        if len(indices) and int(indices.min()) < 0:
            raise IndexError(f"rows are numbered from 0, not {int(indices.min())}")
        blocks, inside = np.divmod(indices, self.block_rows)
        source = np.empty_like(inside)
        pick = np.empty_like(inside)
        for block in np.unique(blocks):
            here = blocks == block
            order = self._order(int(block))[inside[here]]
            source[here], pick[here] = self._source[order], self._pick[order]
        return source, blocks * self.quotas[source] + pick

    def gather(self, indices: np.ndarray) -> RowArrays:
        source, inner = self.sources(indices)
        parts = []
        for number in np.unique(source):
            places = np.nonzero(source == number)[0]
            parts.append((places, self.rows[number].gather(inner[places])))
        if len(parts) == 1:
            return parts[0][1]
        return merge(parts, len(indices), self.sequence_length)

    def passes(self, rows: int) -> dict[str, float]:
        """How often each source has been gone through after the first `rows` rows."""
        sizes = {name: source.epoch_rows for name, source in self.known.items()}
        return {
            name: count / size for name, count in self.drawn(rows).items() if (size := sizes[name])
        }

    def drawn(self, rows: int) -> dict[str, int]:
        """How many rows of each source are among the first `rows`."""
        blocks, rest = divmod(rows, self.block_rows)
        counts = blocks * self.quotas
        if rest:
            last = self._source[self._order(blocks)[:rest]]
            counts = counts + np.bincount(last, minlength=len(self.rows))
        return dict(zip(self.names, counts.tolist()))

    def _order(self, block: int) -> np.ndarray:
        """The order of one block: a permutation of 0..block_rows-1."""
        order = self._blocks.get(block)
        if order is None:
            # The j-th of q rows falls at random into the j-th of q equal stretches of the block.
            key = seed_for(self.seed, "mix", block)
            jitter = (hash64(key, np.arange(self.block_rows)) >> np.uint64(11)) * 2.0**-53
            place = (self._pick + jitter) / self.quotas[self._source]
            order = np.argsort(place, kind="stable")
            self._blocks[block] = order
            while len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return order


def quotas(weights: Sequence[float], total: int) -> np.ndarray:
    """Whole numbers near weights * total / sum(weights) that add to `total`; each at least 1.

    Largest remainders, ties to the earlier source. int64 (sources,).
    """
    shares = np.asarray(weights, dtype=np.float64)
    exact = shares / shares.sum() * total
    result = np.maximum(1, np.floor(exact)).astype(np.int64)
    while (missing := total - int(result.sum())) != 0:
        gap = exact - result
        if missing > 0:
            result[np.argmax(gap)] += 1
        else:  # the rows given to tiny sources are taken from those furthest above their share
            result[np.argmin(np.where(result > 1, gap, np.inf))] -= 1
    return result


def merge(parts: Sequence[tuple[np.ndarray, RowArrays]], count: int, length: int) -> RowArrays:
    """One set of rows from parts: (places (n,), rows (n, length)) that fill 0..count-1.

    Where some parts have masks and others have none, the latter get the masks of one segment.
    """
    masked = any(rows.segments is not None for _, rows in parts)
    shape = (count, length)
    result = RowArrays(np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64))
    if masked:
        result.segments = np.zeros(shape, dtype=np.int32)
        result.positions = np.broadcast_to(np.arange(length), shape).copy()
    for places, rows in parts:
        for name, values in rows.items():
            getattr(result, name)[places] = values
    return result


def source_passes(
    shares: Mapping[str, float], sizes: Mapping[str, float], total: float
) -> dict[str, float]:
    """Passes over each source when `total` tokens are drawn: share * total / size.

    Shares are used as given (GPT-3's printed ones add to 101 %).
    """
    return {name: share * total / sizes[name] for name, share in shares.items()}
