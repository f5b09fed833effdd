"""Every start of the processes finds itself, whatever earlier ones have left in the store."""

from __future__ import annotations

import datetime
import threading
import time
from typing import Any

import pytest
import torch.distributed as dist

from langwright.base import UserError
from langwright.parallel.meeting import name_of_start

SOON = datetime.timedelta(seconds=20)


def start(store: Any, size: int, late: int | None) -> list[str]:
    """The names that the processes of a start agree on; one of them comes late."""
    names = [""] * size

    def process(rank: int) -> None:
        if rank == late:
            time.sleep(0.1)
        names[rank] = name_of_start(store, rank, size, SOON)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return names


def test_starts_one_after_another_on_the_same_store() -> None:
    store = dist.HashStore()
    seen: set[str] = set()
    for late in (None, 0, 1, 2):
        names = start(store, 3, late)
        assert len(set(names)) == 1 and names[0] not in seen
        seen.add(names[0])


def test_a_process_that_died_on_the_way_is_not_taken_for_a_living_one() -> None:
    store = dist.HashStore()
    store.set("here/1", "a word of a dead process")
    with pytest.raises(UserError, match="rank 1 of 2 is missing"):
        name_of_start(store, 0, 2, datetime.timedelta(seconds=0.05))
    names = start(store, 2, late=1)
    assert names[0] == names[1]
