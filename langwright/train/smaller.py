"""Out of memory among several processes: a smaller micro-batch for the next start.

One process alone halves its micro-batches and goes on. One of many cannot: the others are in the
middle of a collective operation and would wait for it for ever. It writes down what to try next and
ends; `torchrun --max-restarts` starts all of them again, and they go on from the last checkpoint.
The update stays the same: only its pieces are smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from langwright.base import UserError, read_json, write_json
from langwright.parallel import Alone

FILE = "micro_batch.json"  # beside choices.json


def write_smaller(path: Path, key: str, rows: int) -> None:
    """Let the next start of the run `key` take at most `rows` rows at a time.

    Any process may write, several at once; the least number stays.
    """
    before = _read(path, key)
    least = rows if before is None else min(rows, before)
    write_json(path, {"key": key, "micro_batch_rows": least})


def read_smaller(path: Path, key: str, form: Alone) -> int | None:
    """What an earlier start of the run `key` wrote down, alike on all processes; None: nothing.

    All processes call this together. Their folder need not be the same one.
    """
    found = [rows for rows in form.gather(_read(path, key)) if rows is not None]
    return min(found, default=None)


def give_up(form: Alone, rows: int, leave: Callable[[int], None]) -> UserError:
    """The error with which a process among several ends that ran out of memory.

    Args:
        rows: that went through the model at a time.
        leave: writes down for the next start how many to try.
    """
    place = f"process {form.rank} of {form.size}"
    if rows == 1:
        return UserError(
            "out of memory with a single row at a time",
            where=place,
            fix="checkpointing = full, more processes to share out the work (dp_shard, tp, cp), "
            "or shorter rows",
        )
    smaller = (rows + 1) // 2
    leave(smaller)
    return UserError(
        f"out of memory with {rows} rows at a time; the next start takes {smaller} and goes on "
        "from the last checkpoint",
        where=place,
        fix="start it again (torchrun --max-restarts 3 does so by itself)",
    )


def _read(path: Path, key: str) -> int | None:
    if not path.exists():
        return None
    record: dict[str, Any] = read_json(path)
    return int(record["micro_batch_rows"]) if record.get("key") == key else None
