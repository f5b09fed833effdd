"""Ways to damage a file: its bytes, or the values of the JSON in it."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

NUMBERS = [0, 1, -1, 2, 7, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64, 10**30]
VALUES: list[Any] = [
    *NUMBERS,
    *(None, True, False, "", "x", "\x00", "\ud800", "é" * 50, "../x", "1e999"),
    *(0.5, -1.5, 1e308, float("nan"), float("inf")),
    *([], {}, [[]], [1, 2], {"a": 1}, [None] * 50),
]


def mutate(rng: random.Random, data: bytes) -> bytes:
    """One to eight random changes of the bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        at = rng.randrange(len(out)) if out else 0
        kind = rng.randrange(8)
        if kind == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and out:
            out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            del out[at : at + rng.randrange(1, 64)]
        elif kind == 4:
            out[at:at] = rng.randbytes(rng.randrange(1, 32))
        elif kind == 5:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(NUMBERS) % (1 << 8 * width)
            out[at : at + width] = value.to_bytes(width, "little")
        elif kind == 6 and out:
            start = rng.randrange(len(out))
            out[at:at] = out[start : start + rng.randrange(1, 256)]
        else:  # near the beginning, where sizes and counts are
            at = rng.randrange(min(len(out), 64)) if out else 0
            out[at : at + 1] = bytes([rng.randrange(256)])
    return bytes(out)


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """One to three random changes of the values or names in a JSON text."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        _change(rng, value)
    return json.dumps(value).encode("utf-8")


def _change(rng: random.Random, value: Any) -> None:
    """Walk down to a random place and change what is there."""
    while True:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            return
        key = rng.choice(keys)
        inner = value[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.85:
            value = inner
            continue
        kind = rng.randrange(6)
        if kind == 0:
            del value[key]
        elif kind == 1 and isinstance(value, dict):
            value[rng.choice((key + "x", key[:-1], "", "\x1b[2J"))] = value.pop(key)
        elif kind == 2 and isinstance(inner, int):
            value[key] = inner + rng.choice((-1, 1, 1000, -inner, inner))
        elif kind == 3:
            other = rng.choice(keys)
            value[key], value[other] = value[other], inner
        elif kind == 4 and isinstance(inner, str):
            at = rng.randrange(len(inner) + 1)
            value[key] = inner[:at] + rng.choice(("{%", "}}", "{{", "x", "(", "")) + inner[at + 1 :]
        else:
            value[key] = copy.deepcopy(rng.choice(VALUES))
        return
