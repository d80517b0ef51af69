"""Batches of samples in an order and with augmentations that depend on (seed, epoch, position) alone.

A worker gets a whole batch to make: the positions in the epoch and the samples that stand there. It seeds every draw
from the position, so the batch is the same whoever makes it, and a resumed run continues with the very next batch.
"""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from rmt.data.images import BadImage
from rmt.data.order import EpochPlan, FixedLengthEpochs, Key, ShardOrder
from rmt.data.randomness import AUGMENT, REPLACE, preserve_rng_state, seed_sample, seed_words
from rmt.errors import RMTError

MAX_REPLACEMENTS = 20
"""After so many bad images in a row for one place in a batch the data are given up."""

PREFETCH_BATCHES = 50
"""So many batches before they are made, `Prefetch` is told of their samples."""


class Samples(Protocol):
    """What a loader reads from, with random access."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Any:
        """Sample number `index`. Raises `BadImage`."""

    def name(self, index: int) -> str:
        """What to call sample number `index` in a message."""


Prepare = Callable[[Any, int], Any]
"""(what `Samples.load` gave, its number) to an entry of a batch; may raise `BadImage`. Draws from the global
generators of Python, numpy and torch are functions of (seed, epoch, position)."""
Collate = Callable[[list[Any], list[int]], dict[str, Any]]
"""The entries of a batch, possibly none, and their samples' numbers to the batch."""
Prefetch = Callable[[np.ndarray], None]
"""Is told the numbers of samples that will be loaded soon."""


class BatchLoader:
    """A sized, resumable iterable of batches: what `collate` made, and of every batch

    - `index`, int64 (B,): the numbers of its samples;
    - `bad`: (name, reason) of every sample that could not be read.

    `shuffle=True` is training: see `EpochPlan` for `drop_last`, `repeats` and the dealing to processes. An image that
    cannot be read is replaced by another one, chosen from (seed, epoch, position). `shuffle=False` is evaluation:
    every sample exactly once, in order; one that cannot be read is left out, and a batch may be short or empty. Either
    way it is reported in the batch's `bad`. With `steps_per_epoch` an epoch is that many steps.

    `workers` processes make the batches (0: this process) and stay for the next epoch, until `close()`. One iteration
    at a time: a second one ends the first. With `workers=0` the global random
    states of Python, numpy and torch are as before after each batch.

    Raises `RMTError` when a worker dies, and when `MAX_REPLACEMENTS` images in a row cannot be read.
    """

    def __init__(
        self,
        samples: Samples,
        prepare: Prepare,
        collate: Collate,
        *,
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        workers: int = 0,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
        steps_per_epoch: int = 0,
        pin_memory: bool = False,
        groups: np.ndarray | None = None,
        shard_order: ShardOrder | None = None,
        prefetch: Prefetch | None = None,
    ):
        plan = EpochPlan(
            samples=len(samples),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
            repeats=repeats,
            groups=groups,
            shard_order=shard_order,
        )
        self.samples = samples
        self.plan = FixedLengthEpochs(plan, steps_per_epoch) if steps_per_epoch else plan
        self.epoch = 0
        self.batches = 0  # handed out in this epoch
        self._turn = 0  # counts iterations
        self._start = 0  # where the next iteration starts; not 0 only after load_state_dict
        self._orders = _Orders(self.plan, prefetch)
        self._pool = DataLoader(
            _BatchMaker(samples, prepare, collate, seed, replace_bad=shuffle),
            batch_size=None,  # a "sample" of the DataLoader is a whole batch of ours
            sampler=self._orders,
            num_workers=workers,
            collate_fn=_as_it_is,
            worker_init_fn=_heed_the_parent_alone,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # else it draws from the global one
        )

    def __len__(self) -> int:
        """Batches in a whole epoch, the same for every process."""
        return self.plan.steps

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration shows. The place in a resumed epoch is kept if it is this one."""
        if epoch != self.epoch:
            self.epoch, self.batches, self._start = epoch, 0, 0

    def state_dict(self) -> dict[str, int]:
        """The epoch, how many of its batches were handed out, and what must not change in between."""
        return {"epoch": self.epoch, "batches": self.batches, "samples": self.plan.samples, "steps": self.plan.steps}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict` was taken: the next iteration starts with the batch after the last one handed out.

        Only `epoch` and `batches` are needed. Raises `RMTError` if the data or the steps per epoch are not the same.
        """
        for key, now in (("samples", self.plan.samples), ("steps", self.plan.steps)):
            if (before := state.get(key, now)) != now:
                raise RMTError(f"cannot resume: {before:,} {key} per epoch when the run was stopped, {now:,} now")
        if not 0 <= state["batches"] <= len(self):
            raise RMTError(f"cannot resume at batch {state['batches']:,} of an epoch of {len(self):,}")
        self.epoch = state["epoch"]
        self.batches = self._start = state["batches"]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        start, self._start = self._start, 0
        self.batches = start
        self._orders.choose(self.epoch, start)
        self._turn += 1
        return self._hand_out(self._turn)

    def _hand_out(self, turn: int) -> Iterator[dict[str, Any]]:
        made: Iterator[Any] | None = None  # begun with the first batch: Lightning hides what goes wrong in `iter`
        while True:
            if turn != self._turn:  # else it would end early, or take the other one's batches
                raise RuntimeError("another iteration over this loader has begun, or it was closed")
            try:
                if made is None:
                    with _child_signal_kept():
                        made = iter(self._pool)
                batch = next(made)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError):  # the last two: the batch of a worker that died meanwhile
                dead = _dead_workers(self._pool._iterator)
                if not dead:
                    raise
                self.close()
                raise RMTError(_death_notice(dead)) from None
            if isinstance(batch, _Failure):
                raise RMTError(batch.message)
            self.batches += 1
            yield batch

    def close(self) -> None:
        """End the worker processes, and whatever iteration is under way. A later iteration starts new ones."""
        # DataLoader has no public way to end persistent workers; dropping `_iterator` alone leaves them to whoever
        # still refers to it, such as a traceback.
        self._turn += 1
        made, self._pool._iterator = self._pool._iterator, None
        if made is not None:
            made._shutdown_workers()  # type: ignore[attr-defined]


@dataclass(frozen=True)
class _Failure:
    """An `RMTError` on its way out of a worker: an exception would arrive with the worker's traceback as its text."""

    message: str


class _Orders(Sampler):
    """Gives the DataLoader one key per batch of the chosen epoch: (epoch, positions, samples)."""

    def __init__(self, plan: EpochPlan | FixedLengthEpochs, prefetch: Prefetch | None):
        self.plan = plan
        self.prefetch = prefetch
        self.choose(0, 0)

    def choose(self, epoch: int, start: int) -> None:
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        return self.plan.steps - self.start

    def __iter__(self) -> Iterator[Key]:
        keys = self.plan.keys(self.epoch, self.start)
        if self.prefetch is None:
            yield from keys
            return
        waiting: deque[Key] = deque()
        for key in keys:
            self.prefetch(key[2])
            waiting.append(key)
            if len(waiting) > PREFETCH_BATCHES:
                yield waiting.popleft()
        yield from waiting


class _BatchMaker(Dataset):
    """Reads, prepares and collates the samples of one batch."""

    def __init__(self, samples: Samples, prepare: Prepare, collate: Collate, seed: int, replace_bad: bool):
        self.samples = samples
        self.prepare = prepare
        self.collate = collate
        self.seed = seed
        self.replace_bad = replace_bad

    def __getitem__(self, key: Key) -> dict[str, Any] | _Failure:
        epoch, positions, samples = key
        entries: list[Any] = []
        kept: list[int] = []
        bad: list[tuple[str, str]] = []
        try:
            with preserve_rng_state():
                for position, sample in zip(positions.tolist(), samples.tolist(), strict=True):
                    found = self._prepared(epoch, position, sample, bad)
                    if found is not None:
                        entries.append(found[0])
                        kept.append(found[1])
        except RMTError as error:
            return _Failure(str(error))
        return {**self.collate(entries, kept), "index": torch.tensor(kept, dtype=torch.int64), "bad": bad}

    def _prepared(self, epoch: int, position: int, sample: int, bad: list[tuple[str, str]]) -> tuple[Any, int] | None:
        """The entry for a position and the sample it is of; bad ones on the way are added to `bad`."""
        for attempt in range(MAX_REPLACEMENTS):
            try:
                loaded = self.samples.load(sample)
                seed_sample(seed_words(AUGMENT, self.seed, epoch, position))
                return self.prepare(loaded, sample), sample
            except BadImage as error:
                bad.append((error.name, error.reason))
                if not self.replace_bad:
                    return None
            draw = seed_words(REPLACE, self.seed, epoch, position, attempt, count=2)
            sample = int(draw.view(np.uint64)[0] % len(self.samples))
        name, reason = bad[-1]
        raise RMTError(f"{MAX_REPLACEMENTS} images in a row could not be read, the last one {name}: {reason}")


def _as_it_is(batch: Any) -> Any:
    return batch


def _heed_the_parent_alone(worker: int) -> None:
    """Outlive Ctrl-C and a scheduler's SIGTERM, which reach the whole process group.

    The training process answers them, by finishing its step and saving, and for that it needs its workers. A SIGTERM
    that the training process itself sends still ends the worker: at exit Python ends its children so, and waits.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere (macOS) there is no telling who sent it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_await_end, args=(os.getppid(),), daemon=True).start()


def _await_end(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


@contextmanager
def _child_signal_kept() -> Iterator[None]:
    """Undo the SIGCHLD handler of torch's DataLoader: it raises in the midst of whatever the process is doing.

    Without it a dead worker is noticed where the next batch is asked for, within the five seconds of its polling.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Callable | int | None = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if before is None else before)


def _dead_workers(made: object) -> list[str]:
    """The workers that have ended and how, after a moment for the news to arrive."""
    workers: list[BaseProcess] = getattr(made, "_workers", [])
    deadline = time.monotonic() + 1
    while not (dead := [n for n, w in enumerate(workers) if w.exitcode is not None]) and time.monotonic() < deadline:
        time.sleep(0.01)
    return [f"{number} of {len(workers)} (pid {workers[number].pid}) {_end(workers[number])}" for number in dead]


def _end(worker: BaseProcess) -> str:
    code = worker.exitcode or 0
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with status {code}"


def _death_notice(dead: list[str]) -> str:
    """One line on the workers that died."""
    return (
        f"data worker {', '.join(dead)} died; SIGKILL mostly means that memory ran out, SIGBUS that shared memory "
        f"(/dev/shm) did: lower the number of workers or the batch size"
    )
