"""Dynamic batching: images of many requests go through the network together.

One thread runs the network. While it is busy, images collect, and the next batch takes what is there, up to
`max_batch`. An image that meets an idle network waits at most `max_wait` seconds for others.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

Compute = Callable[[Hashable, list[Any]], Sequence[Any]]
"""(kind of work, items) -> an answer for each item. Items of different kinds never share a call."""


@dataclass
class _Waiting:
    kind: Hashable
    item: Any
    future: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """A queue of items, and the thread that computes answers for them.

    Args:
        compute: see `Compute`.
        max_batch: items that are computed together, or a function that returns it.
        max_wait: seconds.
        on_batch: called with the size of each batch and its seconds.
    """

    compute: Compute
    max_batch: Callable[[], int]
    max_wait: float
    on_batch: Callable[[int, float], None]
    seconds_per_item: float

    def __init__(
        self,
        compute: Compute,
        max_batch: int | Callable[[], int],
        max_wait: float,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self.compute, self.max_wait, self.on_batch = compute, max_wait, on_batch
        self.max_batch = max_batch if callable(max_batch) else lambda: max_batch
        self.seconds_per_item = 0.05  # a running mean
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="rmt-network", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, kind: Hashable, item: Any) -> Future[Any]:
        """Returns the future of an item's answer. Cancelled before its batch begins, the item costs nothing."""
        entry = _Waiting(kind, item)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            self._queue.append(entry)
            self._changed.notify()
        return entry.future

    def close(self) -> None:
        """Finish what is in the queue, then end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next():
            began = time.monotonic()
            self._answer(batch)
            seconds = time.monotonic() - began
            self.seconds_per_item += 0.1 * (seconds / len(batch) - self.seconds_per_item)
            self.on_batch(len(batch), seconds)
            del batch  # otherwise the images stay in memory until the next ones come

    def _next(self) -> list[_Waiting]:
        """The next batch; empty once the batcher is closed and the queue is done."""
        with self._changed:
            while True:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue:
                    return []
                first, most = self._queue[0], self.max_batch()
                due = first.since + self.max_wait
                while len(self._queue) < most and not self._closed and (left := due - time.monotonic()) > 0:
                    self._changed.wait(left)
                batch = [entry for entry in self._queue if entry.kind == first.kind][:most]
                taken = set(map(id, batch))
                self._queue = deque(entry for entry in self._queue if id(entry) not in taken)
                if started := [entry for entry in batch if entry.future.set_running_or_notify_cancel()]:
                    return started

    def _answer(self, batch: list[_Waiting]) -> None:
        try:
            answers = self.compute(batch[0].kind, [entry.item for entry in batch])
        except BaseException as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for entry in batch:  # each alone, so that the one at fault costs no other its answer
                self._answer([entry])
            return
        for entry, answer in zip(batch, answers, strict=True):
            entry.future.set_result(answer)
