"""How much of a text was copied from the training text, character for character.

Every window of `length` bytes of both texts is reduced to a 64-bit polynomial hash, equal hashes
are looked up, and each hit is compared byte by byte, so that no false copy is reported. Copies
that lie on one diagonal (same shift between the two texts) join into longer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that no byte is ever multiplied away
CHUNK = 1 << 22  # training bytes hashed at a time
MOST_HITS = 200  # places of one window in the training text that are followed


@dataclass(frozen=True)
class Copies:
    """What was found in some texts.

    `share` of their bytes lie inside copies of at least `length` bytes; the longest copy has
    `longest` bytes and reads `example` (its beginning).
    """

    length: int
    share: float
    longest: int
    example: str
    shares: list[float]  # per text


def verbatim_copies(texts: Sequence[str], training: bytes, length: int = 50) -> Copies:
    """Look for stretches of `texts` of at least `length` bytes that stand in `training`.

    Where there is none, `longest` is still exact: shorter lengths are tried by bisection.
    """
    samples = [text.encode("utf-8", "replace") for text in texts]
    covered = [np.zeros(len(sample), dtype=bool) for sample in samples]
    longest, example = 0, b""
    for sample, begin, size in _runs(samples, training, length):
        covered[sample][begin : begin + size] = True
        if size > longest:
            longest, example = size, samples[sample][begin : begin + size]
    if longest == 0:
        example = _longest_below(samples, training, length)
        longest = len(example)
    total = sum(map(len, samples))
    return Copies(
        length=length,
        share=float(sum(int(cover.sum()) for cover in covered) / total) if total else 0.0,
        longest=longest,
        example=example[:300].decode("utf-8", "replace"),
        shares=[float(cover.mean()) if len(cover) else 0.0 for cover in covered],
    )


def _runs(samples: list[bytes], training: bytes, length: int) -> list[tuple[int, int, int]]:
    """All copies of at least `length` bytes: (sample, where it begins in it, its size)."""
    runs: list[tuple[int, int, int]] = []
    joined, owners, places = _hits(samples, training, length)
    for sample in range(len(samples)):
        mine = owners == sample
        at, source = joined[mine], places[mine]
        if not len(at):
            continue
        # Hits one byte apart on the same diagonal are parts of one longer copy.
        order = np.lexsort((at, source - at))
        at, diagonal = at[order], (source - at)[order]
        breaks = np.nonzero((np.diff(diagonal) != 0) | (np.diff(at) != 1))[0] + 1
        starts = np.concatenate(([0], breaks))
        ends = np.concatenate((breaks, [len(at)]))
        runs.extend(
            (sample, int(at[a]), int(b - a) + length - 1) for a, b in zip(starts, ends, strict=True)
        )
    return runs


def _hits(
    samples: list[bytes], training: bytes, length: int, most: int = MOST_HITS
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equal windows: (offset in its sample, number of the sample, offset in training)."""
    hashes, owners, offsets = [], [], []
    for number, sample in enumerate(samples):
        found = _window_hashes(np.frombuffer(sample, dtype=np.uint8), length)
        hashes.append(found)
        owners.append(np.full(len(found), number))
        offsets.append(np.arange(len(found)))
    empty = np.zeros(0, dtype=np.int64)
    if not samples or not sum(map(len, hashes)):
        return empty, empty, empty
    key, owner, offset = map(np.concatenate, (hashes, owners, offsets))
    order = np.argsort(key, kind="stable")
    key, owner, offset = key[order], owner[order], offset[order]
    source, wanted = _places(training, length, np.unique(key))
    # Join: every sample window with every training place of its hash.
    begin, end = np.searchsorted(wanted, key), np.searchsorted(wanted, key, side="right")
    count = np.minimum(end - begin, most)
    which = np.repeat(np.arange(len(key)), count)
    step = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    place = source[begin[which] + step]
    owner, offset = owner[which], offset[which]
    same = np.fromiter(
        (
            samples[o][a : a + length] == training[b : b + length]
            for o, a, b in zip(owner, offset, place, strict=True)
        ),
        dtype=bool,
        count=len(place),
    )
    return offset[same], owner[same], place[same]


def _places(training: bytes, length: int, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where windows with one of the sorted hashes `wanted` begin, and their hashes, by hash."""
    filter_bits = np.zeros(1 << 20, dtype=bool)  # by the upper 20 bits: most windows end here
    filter_bits[wanted >> np.uint64(44)] = True
    data = np.frombuffer(training, dtype=np.uint8)
    places, hashes = [], []
    for start in range(0, max(0, len(data) - length + 1), CHUNK):
        found = _window_hashes(data[start : start + CHUNK + length - 1], length)
        maybe = np.nonzero(filter_bits[found >> np.uint64(44)])[0]
        index = np.searchsorted(wanted, found[maybe])
        index[index == len(wanted)] = 0
        maybe = maybe[wanted[index] == found[maybe]]
        places.append(maybe + start)
        hashes.append(found[maybe])
    if not places:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64)
    place, key = np.concatenate(places), np.concatenate(hashes)
    order = np.argsort(key, kind="stable")
    return place[order], key[order]


def _window_hashes(data: np.ndarray, length: int) -> np.ndarray:
    """Hash of each window of `length` bytes: uint64 (N - length + 1,), all modulo 2^64.

    The hash of a joined stretch is h(left) * m^len(right) + h(right), so windows of 1, 2, 4 ...
    bytes are made by doubling, and those that `length` is the sum of are joined on the way.
    """
    if len(data) < length:
        return np.zeros(0, dtype=np.uint64)
    count = len(data) - length + 1
    block, size, factor = data.astype(np.uint64) + np.uint64(1), 1, MULTIPLIER
    result = np.zeros(count, dtype=np.uint64)
    done = 0
    while True:
        if length & size:
            result = result * np.uint64(factor) + block[done : done + count]
            done += size
        if done == length:
            return result ^ (result >> np.uint64(29))  # the upper bits also vary with all bytes
        block = block[:-size] * np.uint64(factor) + block[size:]
        size, factor = 2 * size, factor * factor % (1 << 64)


def _longest_below(samples: list[bytes], training: bytes, length: int) -> bytes:
    """The longest common stretch, known to be shorter than `length`."""
    low, high, best = 0, length, b""
    while high - low > 1:
        middle = (low + high) // 2
        offsets, owners, _ = _hits(samples, training, middle, most=1)
        if len(offsets):
            low = middle
            best = samples[owners[0]][offsets[0] : offsets[0] + middle]
        else:
            high = middle
    return best
