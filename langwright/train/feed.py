"""The batches of a run, in their order, each process's own rows of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from langwright.dataset import Batch, Prefetcher
from langwright.train.setup import Setup


def batches(setup: Setup, start: int) -> Iterator[Batch]:
    """The batches from step `start` on; a change of the run's plan takes effect at once."""
    timeline, step = setup.timeline, start
    while step < timeline.total_steps:
        version = timeline.version
        with _reader(setup, step) as some:
            for batch in some:
                yield batch
                step += 1
                if timeline.version != version:  # a change: what was read ahead is not wanted
                    break


@contextlib.contextmanager
def _reader(setup: Setup, step: int) -> Iterator[Iterable[Batch]]:
    """Batches from `step` on, as long as they are alike; made ahead of time if the device is not
    the CPU (there it would take the cores from the training itself)."""
    source, start, rows = setup.timeline.span(step)
    steps = setup.timeline.end(step) - step
    first, own = setup.form.own_rows(start, rows)
    if setup.updater.device.type == "cpu":
        yield (source.batch(first + i * rows, own) for i in range(steps))
        return
    pin = setup.updater.device.type == "cuda"
    with Prefetcher(source, first, own, steps=steps, skip=rows - own, pin=pin) as some:
        yield some
