"""Reading the next batches while the current one is trained on."""

from __future__ import annotations

import queue
import threading
from types import TracebackType

import torch

from langwright.dataset.batch import Batch
from langwright.dataset.rows import Rows


class Prefetcher:
    """Batches of consecutive rows, prepared by one background thread.

    An iterator, and a context manager that ends the thread. An exception of the thread is raised
    where the batch is asked for.

    Args:
        rows: where batches come from.
        start: number of the first row.
        count_per_batch: rows of one batch.
        steps: batches to give; None: no end.
        skip: rows left out between one batch and the next (those of other readers).
        device: where batches go. For CUDA they are pinned, and the copy overlaps with work.
        pin: give them in page-locked memory, also where they stay on the host.
        depth: batches held ready.
    """

    def __init__(
        self,
        rows: Rows,
        start: int,
        count_per_batch: int,
        *,
        steps: int | None = None,
        skip: int = 0,
        device: str | torch.device = "cpu",
        pin: bool = False,
        depth: int = 2,
    ) -> None:
        self.rows, self.start, self.count = rows, start, count_per_batch
        self.steps, self.skip = steps, skip
        self.device = torch.device(device)
        self.pin = pin or self.device.type == "cuda"
        self._ready: queue.Queue[Batch | BaseException | None] = queue.Queue(max(1, depth))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Batch:
        if self._stop.is_set():
            raise StopIteration
        item = self._ready.get()
        if isinstance(item, Batch):
            on_gpu = self.device.type == "cuda"
            return item if self.device.type == "cpu" else item.to(self.device, non_blocking=on_gpu)
        self.close()
        if item is None:
            raise StopIteration
        raise item

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the background thread; batches not yet taken are dropped."""
        self._stop.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()  # makes room for a thread that waits to put
            except queue.Empty:
                self._thread.join(0.01)

    def _work(self) -> None:
        step = 0
        try:
            while not self._stop.is_set() and (self.steps is None or step < self.steps):
                first = self.start + step * (self.count + self.skip)
                batch = self.rows.batch(first, self.count)
                self._put(batch.pin_memory() if self.pin else batch)
                step += 1
            self._put(None)
        except BaseException as error:
            self._put(error)

    def _put(self, item: Batch | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
