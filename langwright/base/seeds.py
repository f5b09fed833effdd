"""Seeds that depend on names, not on the order of calls.

Each random thing (a parameter, the order of an epoch, the dropout of a step) draws from its own
generator, seeded by (run seed, its name). So no layout of devices, workers or micro-batches
changes what is drawn.
"""

from __future__ import annotations

import hashlib


def seed_for(seed: int, *names: object) -> int:
    """A 63-bit seed derived from the run's `seed` and a path of names."""
    text = "\0".join([str(seed), *map(str, names)])
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
