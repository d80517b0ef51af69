"""Answers for all images of a collection in one file, and the engines that compute them."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console

from rmt.data.files import valid_name
from rmt.data.images import BadImage
from rmt.data.sources.collection import Collection
from rmt.errors import RMTError
from rmt.inference.bulk.answers import AnswersFile
from rmt.inference.bulk.progress import progress_bar
from rmt.inference.bulk.work import Done, Work, Worker
from rmt.terminal import log_to

PART_IMAGES, PART_SECONDS = 1000, 30.0
"""A part is written after so many images, or seconds."""

Engine = Callable[[Work, Worker, Collection, np.ndarray], Iterable[Done]]
"""engine(work, worker, collection, indices): yields the answers for the images at these indices."""


@dataclass
class Report:
    """What `write_answers` did."""

    model: str
    images: int = 0  # that have an answer from this call
    before: int = 0  # that had one
    bad: list[BadImage] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Images per second, without the time to load the network."""
        return (self.images + len(self.bad)) / self.seconds if self.seconds else 0.0


def run_here(work: Work, worker: Worker, collection: Collection, indices: np.ndarray) -> Iterator[Done]:
    """The engine that runs the network in this process."""
    yield from worker.run(collection, indices)


def write_answers(
    work: Work, collection: Collection, output: Path, *, engine: Engine = run_here, console: Console | None = None
) -> Report:
    """Writes what `work` computes of each image into a file; images that have an answer there are left out.

    An image that cannot be read is named on the console, and has no answer. If the call is interrupted, its answers are
    kept in parts, with which the next call begins.

    Raises:
        RMTError: the file has answers of another network, or cannot be written.
    """
    console = console or Console(stderr=True, highlight=False, soft_wrap=True)
    worker = work.start()
    answers = AnswersFile(output, worker.model, worker.rows)
    todo, report = _missing(collection, answers.done), Report(worker.model, before=len(answers.done))
    started = time.monotonic()
    parts = _Parts(answers)
    with progress_bar(console, len(todo)) as advance:
        try:
            for done in engine(work, worker, collection, todo) if len(todo) else ():
                parts.add(done)
                report.images += len(done.table)
                report.bad += done.bad
                for error in done.bad:
                    log_to(console, f"rmt: {error}")
                report.seconds = time.monotonic() - started
                advance(len(done.indices) + len(done.bad))
        finally:
            parts.flush()
    if not report.images and not answers.done:
        answers.discard()
        raise RMTError(f"no image of {len(todo):,} could be read; {output} is not written")
    answers.finish()
    return report


def _missing(collection: Collection, done: set[str]) -> np.ndarray:
    """int64: the images without an answer; of several with one name the first."""
    seen, found = set(done), []
    for index in range(len(collection)):
        name = valid_name(collection.name(index))
        if name not in seen:
            seen.add(name)
            found.append(index)
    return np.array(found, np.int64)


class _Parts:
    """Collects tables into parts.

    A part has neighbouring images, and none of both sides of an earlier part, so that the parts can be put into the
    order of the images.
    """

    def __init__(self, answers: AnswersFile) -> None:
        self.answers, self.earlier = answers, answers.firsts()
        self.first, self.last, self.tables, self.since = -1, -1, list[pa.Table](), 0.0

    def add(self, done: Done) -> None:
        places = np.searchsorted(self.earlier, done.indices)
        borders = [0, *(np.flatnonzero(np.diff(places)) + 1).tolist(), len(places)] if len(places) else []
        for start, stop in pairwise(borders):
            first = done.indices[start]
            if start or first != self.last + 1 or first in self.earlier:
                self.flush()
            if not self.tables:
                self.first, self.since = first, time.monotonic()
            self.tables.append(done.table.slice(start, stop - start))
            self.last = done.indices[stop - 1]
        if sum(map(len, self.tables)) >= PART_IMAGES or time.monotonic() - self.since > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        tables, self.tables = self.tables, []
        if tables:
            self.answers.write(self.first, pa.concat_tables(tables))
