"""Batches of samples whose order and augmentation depend only on (seed, epoch, position).

A worker makes a whole batch: it receives the positions in the epoch and the samples at these positions. Every draw is
seeded by the position, so the batch does not depend on the worker, and a resumed run continues with the next batch.
"""

import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import Any, Protocol

import numpy as np
import torch
from rich.console import Console
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, get_worker_info

from rmt.data.images import BadImage
from rmt.data.order import EpochPlan, FixedLengthEpochs, Key
from rmt.data.randomness import AUGMENT, REPLACE, preserve_rng_state, seed_sample, seed_words
from rmt.errors import RMTError
from rmt.terminal import log_to, plural

MAX_REPLACEMENTS = 20
"""Number of consecutive unreadable images for one position after which loading fails."""

PREFETCH_BATCHES = 50
"""Number of batches by which `Prefetch` is called ahead."""

BATCHES_AHEAD = 2
"""Number of batches that each worker makes ahead."""

_SHARED_MEMORY = "/dev/shm"
_NOT_SENT = 28  # exit status of a worker that could not send a batch


class SampleSet(Protocol):
    """A dataset with random access."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Any:
        """Sample number `index`. Raises `BadImage`."""

    def name(self, index: int) -> str:
        """What messages call sample number `index`."""


SampleTransform = Callable[[Any, int], Any]
"""transform(sample, index) -> batch entry, where sample is the result of `SampleSet.load`; may raise `BadImage`. Draws
from the global generators of Python, numpy and torch are functions of (seed, epoch, position)."""
Collate = Callable[[list[Any], list[int]], dict[str, Any]]
"""collate_fn(entries, indices) -> batch; entries may be empty."""
Prefetch = Callable[[np.ndarray], None]
"""Is called with the indices of samples that will be loaded soon."""


class BatchLoader:
    """A sized, resumable iterable of batches.

    A batch has the entries that `collate` returns, and

    - `index`, int64 (B,): the indices of its samples;
    - `bad`: (name, reason) of every sample that could not be read.

    `shuffle=True` is training: a sample that cannot be read is replaced by another one, chosen from (seed, epoch,
    position). `shuffle=False` is evaluation: every sample exactly once, in order; one that cannot be read is skipped,
    so a batch may be short or empty. The global random states of Python, numpy and torch are not changed. Only one
    iteration at a time: a second one ends the first.

    Args:
        samples: the dataset.
        transform: applied to each sample.
        collate: makes a batch.
        shuffle: see above.
        seed: of the order and of all draws.
        workers: number of processes that make the batches; 0: this process. They stay until `close()`.
        steps_per_epoch: length of an epoch in batches, see `FixedLengthEpochs`; 0: one pass over the data.
        prefetch: see `Prefetch`.
        order: batch_size, drop_last, rank, world_size, repeats, groups and shard_order of `EpochPlan`.
    Raises:
        RMTError: a worker dies, or `MAX_REPLACEMENTS` images in a row cannot be read.
    """

    epoch: int
    batches: int

    def __init__(
        self,
        samples: SampleSet,
        transform: SampleTransform,
        collate: Collate,
        *,
        shuffle: bool,
        seed: int = 0,
        workers: int = 0,
        steps_per_epoch: int = 0,
        prefetch: Prefetch | None = None,
        **order: Any,
    ):
        plan = EpochPlan(samples=len(samples), shuffle=shuffle, seed=seed, **order)
        self.samples = samples
        self.plan: FixedLengthEpochs | EpochPlan = FixedLengthEpochs(plan, steps_per_epoch) if steps_per_epoch else plan
        self.workers = workers
        self.epoch = 0
        self.batches = 0  # returned in this epoch
        self._iteration = 0
        self._start = 0  # first batch of the next iteration; not 0 only after load_state_dict
        self._warned = False
        self._sampler = _BatchSampler(self.plan, prefetch)
        self._pool = DataLoader(
            _BatchDataset(samples, transform, collate, seed, replace_bad=shuffle),
            batch_size=None,  # one item of the dataset is a whole batch
            sampler=self._sampler,
            num_workers=workers,
            prefetch_factor=BATCHES_AHEAD if workers else None,
            collate_fn=_identity,
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # otherwise it draws from the global one
        )

    def __len__(self) -> int:
        """Batches in a whole epoch, the same for every process."""
        return self.plan.steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration. In a resumed epoch, choosing that epoch keeps the position."""
        if epoch != self.epoch:
            self.epoch, self.batches, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch, the number of its batches that were returned, and what must be the same on resuming."""
        return {"epoch": self.epoch, "batches": self.batches, "samples": self.plan.samples, "steps": self.plan.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Let the next iteration start with the batch after the last one that was returned before `state_dict`.

        Only `epoch` and `batches` are required. Raises `RMTError` if the data or the steps per epoch have changed.
        """
        for key, now in (("samples", self.plan.samples), ("steps", self.plan.steps)):
            if (before := state.get(key, now)) != now:
                raise RMTError(
                    f"cannot resume: {before:,} {key} per epoch when the run was stopped, {now:,} now; restore data "
                    "and options, or pass --accept-changes"
                )
        if not 0 <= state["batches"] <= len(self):
            raise RMTError(f"cannot resume at batch {state['batches']:,} of an epoch of {len(self):,}")
        self.epoch = state["epoch"]
        self.batches = self._start = state["batches"]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start, self._start = self._start, 0
        self.batches = start
        self._sampler.epoch, self._sampler.start = self.epoch, start
        self._iteration += 1
        return self._iterate(self._iteration)

    def _iterate(self, number: int) -> Iterator[dict[str, Any]]:
        pool: Iterator[Any] | None = None  # created with the first batch: Lightning hides errors in `iter`
        while True:
            if number != self._iteration:  # otherwise it would end early, or take batches of the other iteration
                raise RuntimeError("another iteration over this loader has begun, or it was closed")
            try:
                if pool is None:
                    with _restore_sigchld():
                        pool = iter(self._pool)
                batch = next(pool)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError):  # the last two: reading the batch of a worker that died
                if not (dead := _dead_workers(self._pool._iterator)):
                    raise
                self.close()
                raise RMTError(
                    f"data worker {', '.join(dead)} died; SIGKILL usually means out of memory, SIGBUS or status "
                    f"{_NOT_SENT} that {_SHARED_MEMORY} is full: lower the number of workers or the batch size"
                ) from None
            if isinstance(batch, bytes):  # of a worker's `_without_shared_memory`, nobody else's
                self._warn_of_little_shared_memory()
                batch = pickle.loads(batch)
            if isinstance(batch, RMTError):
                raise batch
            self.batches += 1
            yield batch

    def _warn_of_little_shared_memory(self) -> None:
        if not self._warned:
            self._warned = True
            log_to(
                Console(stderr=True, soft_wrap=True, highlight=False),
                f"note: {_SHARED_MEMORY} is too small for the batches of {plural(self._pool.num_workers, 'worker')}: "
                "they come through pipes, which is slower (in a container: docker run --shm-size=8g …)",
            )

    def close(self) -> None:
        """End the worker processes and any iteration. A later iteration starts new workers."""
        # DataLoader has no public way to end persistent workers. Dropping `_iterator` is not enough: it may be
        # referenced elsewhere, such as by a traceback.
        self._iteration += 1
        pool, self._pool._iterator = self._pool._iterator, None
        if pool is not None:
            pool._shutdown_workers()  # type: ignore[attr-defined]


@dataclass
class _BatchSampler:
    """Yields the key of each batch of `epoch` from batch `start` on."""

    plan: EpochPlan | FixedLengthEpochs
    prefetch: Prefetch | None
    epoch: int = 0
    start: int = 0

    def __iter__(self) -> Iterator[Key]:
        waiting: deque[Key] = deque()
        for key in self.plan.keys(self.epoch, self.start):
            if self.prefetch is not None:
                self.prefetch(key[2])
            waiting.append(key)
            if self.prefetch is None or len(waiting) > PREFETCH_BATCHES:
                yield waiting.popleft()
        yield from waiting


class _BatchDataset(Dataset):
    """Loads, transforms and collates the samples of one batch."""

    def __init__(self, samples: SampleSet, transform: SampleTransform, collate: Collate, seed: int, replace_bad: bool):
        self.samples = samples
        self.transform = transform
        self.collate = collate
        self.seed = seed
        self.replace_bad = replace_bad

    def __getitem__(self, key: Key) -> dict[str, Any] | bytes | RMTError:
        epoch, positions, samples = key
        entries: list[tuple[Any, int]] = []
        bad: list[tuple[str, str]] = []
        try:
            with preserve_rng_state():
                for position, sample in zip(positions.tolist(), samples.tolist(), strict=True):
                    entries += self._load(epoch, position, sample, bad)
        except RMTError as error:
            return RMTError(str(error))  # not raised: it would arrive with the worker's traceback in its message
        indices = [sample for _, sample in entries]
        batch = self.collate([entry for entry, _ in entries], indices)
        batch = {**batch, "index": torch.tensor(indices, dtype=torch.int64), "bad": bad}
        worker = get_worker_info()
        return batch if worker is None or _fits_shared_memory(batch, worker.num_workers) else pickle.dumps(batch)

    def _load(self, epoch: int, position: int, sample: int, bad: list[tuple[str, str]]) -> list[tuple[Any, int]]:
        """The entry for a position and its sample, or nothing; unreadable samples are added to `bad`."""
        for attempt in range(MAX_REPLACEMENTS):
            try:
                loaded = self.samples.load(sample)
                seed_sample(seed_words(AUGMENT, self.seed, epoch, position))
                return [(self.transform(loaded, sample), sample)]
            except BadImage as error:
                bad.append((error.name, error.reason))
                if not self.replace_bad:
                    return []
            draw = seed_words(REPLACE, self.seed, epoch, position, attempt, count=2)
            sample = int(draw.view(np.uint64)[0] % len(self.samples))
        name, reason = bad[-1]
        raise RMTError(f"{MAX_REPLACEMENTS} images in a row could not be read, the last one {name}: {reason}")


def _identity(batch: Any) -> Any:
    return batch


def _fits_shared_memory(batch: dict[str, Any], workers: int) -> bool:
    """Whether there is space for this batch and those that the other workers may write at the same time.

    A container has 64 MB of shared memory by default, less than one batch of 128 images of 224².
    """
    if not os.path.isdir(_SHARED_MEMORY):  # macOS has no such file system, and no such limit
        return True
    size = sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor))
    status = os.statvfs(_SHARED_MEMORY)
    return size * (workers + 1) <= status.f_bavail * status.f_frsize


def _start_worker(worker: int) -> None:
    """Prepare a worker process."""
    # A batch that cannot be sent would only be printed, and waited for in vain.
    Queue._on_queue_feeder_error = staticmethod(lambda error, item: os._exit(_NOT_SENT))  # type: ignore[attr-defined]
    parent: Any = parent_process()  # the training process, even if another process started this one for it
    _ignore_stop_signals(parent.pid)  # before there is a thread that does not block them
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    """End when the training process is gone: no one reads the pipe in which a batch may wait, nor sends a SIGTERM."""
    parent.join()
    os._exit(0)


def _ignore_stop_signals(parent: int) -> None:
    """Ignore Ctrl-C, and a SIGTERM that does not come from the training process.

    A scheduler sends them to the whole process group. The training process then finishes its step and saves, and needs
    its workers for that. A SIGTERM of the training process still ends the worker: Python ends its children so at exit.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere (macOS) the sender is not known
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_sigterm, args=(parent,), daemon=True).start()


def _wait_for_sigterm(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


@contextmanager
def _restore_sigchld() -> Iterator[None]:
    """Remove the SIGCHLD handler that DataLoader installs, which raises in the middle of whatever the process does.

    Without it a dead worker is noticed when the next batch is requested, within the five seconds of DataLoader's poll.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Callable | int | None = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def _dead_workers(pool: object) -> list[str]:
    """The workers that have ended and how; waits up to a second, because an exit code may arrive late."""
    workers: list[BaseProcess] = getattr(pool, "_workers", [])
    deadline = time.monotonic() + 1
    while not any(worker.exitcode is not None for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    dead = []
    for number, worker in enumerate(workers):
        if (code := worker.exitcode) is not None:
            end = f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"
            dead.append(f"{number} of {len(workers)} (pid {worker.pid}) {end}")
    return dead
