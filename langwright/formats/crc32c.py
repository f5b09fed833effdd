"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, fast enough for hundreds of megabytes.

A checksum looks sequential, but it is linear over GF(2): the data is cut into equal lanes, all
lanes go through the table together (numpy), and their checksums are joined two by two.
"""

from __future__ import annotations

import functools

import numpy as np

POLYNOMIAL = 0x82F63B78  # 0x1EDC6F41 with its bits reversed
LANES = 8192
ONES = 0xFFFFFFFF


def crc32c(data: bytes | memoryview | np.ndarray) -> int:
    """The CRC-32C of a byte string (RFC 3720, appendix B.4): 0xE3069283 for ``b"123456789"``.

    `data` is bytes, or a contiguous array of any type.
    """
    if isinstance(data, np.ndarray):
        flat = data.reshape(-1).view(np.uint8)
    else:
        flat = np.frombuffer(data, np.uint8)
    words = len(flat) // (4 * LANES)
    if words < 8:  # too short for lanes
        return _bytewise(flat.tobytes(), 0)
    lane_bytes = 4 * words
    body, rest = flat[: LANES * lane_bytes], flat[LANES * lane_bytes :]
    lanes = _lanes(body.view(np.dtype("<u4")).reshape(LANES, words))
    while len(lanes) > 1:
        lanes = _shift(lanes[0::2], lane_bytes) ^ lanes[1::2]
        lane_bytes *= 2
    return _bytewise(rest.tobytes(), int(lanes[0]))


def masked(crc: int) -> int:
    """The form in which TensorFlow and LevelDB store a checksum."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & ONES


@functools.cache
def _tables() -> np.ndarray:
    """(4, 256): table n takes a byte that n more bytes follow."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ POLYNOMIAL, table >> 1).astype(np.uint32)
    tables = [table]
    for _ in range(3):
        tables.append(table[tables[-1] & 255] ^ tables[-1] >> 8)
    return np.stack(tables)


@functools.cache
def _first_table() -> list[int]:
    return _tables()[0].tolist()


def _bytewise(data: bytes, crc: int) -> int:
    """Go on from `crc` with a few bytes, one by one."""
    table = _first_table()
    crc ^= ONES
    for byte in data:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ ONES


def _lanes(words: np.ndarray) -> np.ndarray:
    """(lanes, words) to the checksum of each lane, four bytes at a step."""
    last, third, second, first = _tables()
    crc = np.full(len(words), ONES, np.uint32)
    block = 256  # words of a lane that are brought together at once, for the sake of the cache
    for start in range(0, words.shape[1], block):
        for column in np.ascontiguousarray(words[:, start : start + block].T):
            crc ^= column
            crc = (
                first[crc & 255] ^ second[crc >> 8 & 255] ^ third[crc >> 16 & 255] ^ last[crc >> 24]
            )
    return crc ^ np.uint32(ONES)


def _shift(crc: np.ndarray, zeros: int) -> np.ndarray:
    """What the checksums become when `zeros` zero bytes follow (without the inversions).

    One zero byte is a linear map of the 32 bits; `zeros` of them are its power.
    """
    matrix = _byte_map()  # images of the 32 single bits
    result = (np.uint32(1) << np.arange(32, dtype=np.uint32)).astype(np.uint32)
    while zeros:
        if zeros & 1:
            result = _apply(matrix, result)
        matrix = _apply(matrix, matrix)
        zeros >>= 1
    return _apply(result, crc)


@functools.cache
def _byte_map() -> np.ndarray:
    bits = (np.uint32(1) << np.arange(32, dtype=np.uint32)).astype(np.uint32)
    return _tables()[0][bits & 255] ^ bits >> 8


def _apply(matrix: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The linear map with these images of the 32 bits, of each vector."""
    out = np.zeros_like(vectors)
    for bit in range(32):
        out ^= np.where(vectors >> bit & 1, matrix[bit], 0).astype(np.uint32)
    return out
