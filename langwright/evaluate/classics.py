"""What classic compressors need for the same held-out bytes after the same training text.

A language model that needs more bits than `xz` has learnt nothing that copying would not give.
All figures are bits per byte of the held-out text, given the training text:

- xz: size of `xz -9e` of both texts joined, less `xz -9e` of the first. The dictionary is made
  large enough to reach back over everything.
- zstd: size of `zstd -19 --long=27 --patch-from`: the training text is a prefix to copy from.
- 5-gram: a byte model with Kneser-Ney smoothing, counted on the training text (see `ngram`).

xz and zstd go on learning within the held-out text; the 5-gram and our models do not.
"""

from __future__ import annotations

import lzma
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

from langwright.evaluate.ngram import ByteNgram

SEPARATOR = b"\0"  # between documents: a compressor too must say where one ends
NGRAM_ORDER = 5
CHUNK = 1 << 20  # bytes compressed between two looks at `stop`


@dataclass(frozen=True)
class Classic:
    """What one classic needs."""

    name: str
    bits_per_byte: float
    seconds: float


def join_documents(texts: list[str]) -> bytes:
    """Documents as the bytes the classics see: UTF-8, a zero byte after each."""
    return b"".join(text.encode("utf-8") + SEPARATOR for text in texts)


def classics(
    train_bytes: bytes,
    heldout_bytes: bytes,
    *,
    max_train_bytes: int | None = None,
    text_bytes: int | None = None,
) -> dict[str, Classic]:
    """Bits per held-out byte for "xz", "zstd" and "5-gram".

    Args:
        train_bytes: text they may look at.
        heldout_bytes: text they are measured on.
        max_train_bytes: use only the last so many bytes of the training text (None: all).
        text_bytes: what to divide by, if not all of `heldout_bytes` (separators left out).
    """
    return classics_of_many(
        train_bytes, {"all": heldout_bytes}, max_train_bytes, {"all": text_bytes}
    )["all"]


def classics_of_many(
    train_bytes: bytes,
    heldout: dict[str, bytes],
    max_train_bytes: int | None = None,
    text_bytes: dict[str, int | None] | None = None,
    *,
    threads: int = 2,
    stop: Event | None = None,
) -> dict[str, dict[str, Classic]]:
    """`classics` for several held-out texts after one training text, reading it only once each.

    The compressors run in `threads` beside each other: they release the interpreter. When `stop`
    is set they give up within a few seconds, with a `CancelledError`.
    """
    if max_train_bytes is not None:
        train_bytes = train_bytes[-max_train_bytes:] if max_train_bytes else b""
    sizes = {name: (text_bytes or {}).get(name) or len(text) for name, text in heldout.items()}
    if not all(sizes.values()):
        raise ValueError("no held-out bytes to measure")
    stop = stop or Event()
    with ThreadPoolExecutor(threads) as pool:
        alone = pool.submit(_timed_xz, stop, train_bytes)
        both = {
            name: pool.submit(_timed_xz, stop, train_bytes, text) for name, text in heldout.items()
        }
        patches = {
            name: pool.submit(_timed_zstd, stop, train_bytes, text)
            for name, text in heldout.items()
        }
        grams = pool.submit(_timed_ngram, stop, train_bytes, heldout)
        base_size, base_seconds = alone.result()
        ngram_bits, ngram_seconds = grams.result()
        result = {}
        for name in heldout:
            size, seconds = both[name].result()
            patch_size, patch_seconds = patches[name].result()
            bits = {
                "xz": (8 * (size - base_size), base_seconds + seconds),
                "zstd": (8 * patch_size, patch_seconds),
                f"{NGRAM_ORDER}-gram": (ngram_bits[name], ngram_seconds),
            }
            result[name] = {
                kind: Classic(kind, total / sizes[name], round(spent, 3))
                for kind, (total, spent) in bits.items()
            }
    return result


def xz_size(*parts: bytes, stop: Event | None = None) -> int:
    """Bytes of `xz -9e` of the joined parts, with a dictionary that reaches over all of them."""
    total = sum(map(len, parts))
    reach = min(max(1 << 26, total), 1536 << 20)  # -9 has 64 MiB; the format ends at 1.5 GiB
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": reach}]
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
    size = 0
    for part in parts:
        for start in range(0, len(part), CHUNK):
            _check(stop)
            size += len(compressor.compress(part[start : start + CHUNK]))
    return size + len(compressor.flush())


def zstd_size(prefix: bytes, data: bytes) -> int:
    """Bytes of `zstd -19 --long=27` of `data` with `prefix` to copy from."""
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, source_size=len(prefix) + len(data), window_log=27, enable_ldm=True
    )
    dictionary = None
    if prefix:
        raw = zstandard.DICT_TYPE_RAWCONTENT
        dictionary = zstandard.ZstdCompressionDict(prefix, dict_type=raw)
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)
    return len(compressor.compress(data))


def _timed_xz(stop: Event, *parts: bytes) -> tuple[int, float]:
    started = time.perf_counter()
    return xz_size(*parts, stop=stop), time.perf_counter() - started


def _timed_zstd(stop: Event, prefix: bytes, data: bytes) -> tuple[int, float]:
    _check(stop)
    started = time.perf_counter()
    return zstd_size(prefix, data), time.perf_counter() - started


def _timed_ngram(
    stop: Event, train: bytes, heldout: dict[str, bytes]
) -> tuple[dict[str, float], float]:
    _check(stop)
    started = time.perf_counter()
    model = ByteNgram(train, NGRAM_ORDER)
    bits = {name: model.bits(text, train[-NGRAM_ORDER:]) for name, text in heldout.items()}
    return bits, time.perf_counter() - started


def _check(stop: Event | None) -> None:
    if stop is not None and stop.is_set():
        raise CancelledError
