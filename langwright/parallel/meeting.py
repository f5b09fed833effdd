"""Where the processes of a start find one another, when torchrun starts them again after a failure.

torchrun's store outlives its processes. In it stand the addresses of those of earlier starts, and a
process that reads one of them calls a dead one ("connection refused"). So every start gets a name
that no earlier one has had, and everything it writes stands under it.
"""

from __future__ import annotations

import datetime
import os
import time
import uuid
from typing import Any

from langwright.base import UserError

PAUSE = 0.01  # seconds between two looks into the store


def fresh_store(rank: int, size: int, timeout: datetime.timedelta) -> Any:
    """A store for this start's own use; None where torch makes a new one for each start anyway."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, _, _ = next(rendezvous("env://", rank, size, timeout=timeout))
    return PrefixStore(name_of_start(store, rank, size, timeout), store)


def name_of_start(store: Any, rank: int, size: int, timeout: datetime.timedelta) -> str:
    """A new name, alike on all processes that are there now.

    Each process leaves a new word; the first one answers every word that it finds with its name for
    this start. Words of earlier processes are answered too, but nobody waits for that; a process
    goes on when its own word is answered, and says so.
    """
    if rank:
        word = uuid.uuid4().hex
        store.set(f"here/{rank}", word)
        store.wait([f"answer/{word}"], timeout)
        name = store.get(f"answer/{word}").decode()
        store.set(f"joined/{name}/{rank}", "")
        return name
    name = uuid.uuid4().hex
    until = time.monotonic() + timeout.total_seconds()
    missing = set(range(1, size))
    while missing:
        for other in sorted(missing):
            if store.check([f"joined/{name}/{other}"]):
                missing.remove(other)
            elif store.check([f"here/{other}"]):
                word = store.get(f"here/{other}").decode()
                store.set(f"answer/{word}", name)
        if missing and time.monotonic() > until:
            raise UserError(
                "not all processes have come",
                where="torchrun",
                found=f"rank {min(missing)} of {size} is missing",
            )
        time.sleep(PAUSE)
    return name
