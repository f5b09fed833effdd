"""Freed main memory stays with the process, where the next step takes it again.

glibc gives large freed blocks back to the system, and the system fills the pages of every new one
with zeros: for a training step on a CPU, which allocates the same large tensors again and again,
that is some 8 % of its time (10.7M model, 32 rows of 256: 110,000 page faults a step; then none).
"""

from __future__ import annotations

import ctypes
import sys

# Numbers of glibc's malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
LARGEST = (1 << 31) - 1  # mallopt takes an int


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed; False where it cannot be told.

    All threads then share one heap: those of their own are cut into 64 MiB, which large tensors
    do not fit. The process's memory stays at its peak until it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        tell = ctypes.CDLL(None).mallopt
        return all(
            tell(name, value)
            for name, value in (
                (MMAP_THRESHOLD, 1 << 30),
                (TRIM_THRESHOLD, LARGEST),
                (ARENA_MAX, 1),
            )
        )
    except (OSError, AttributeError):  # another C library
        return False
