"""From the bytes of an image to an answer: decoding and drawing in threads, the network in batches.

Everything that is accepted is counted: images that wait, and pixels of those that are decoded.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

from rmt.data.images import BadImage, read_image, read_size
from rmt.errors import RMTError
from rmt.inference import Predictor
from rmt.inference.exported import WrongSize
from rmt.serve.batch_size import one_by_one
from rmt.serve.batcher import Batcher
from rmt.serve.errors import Busy
from rmt.serve.hosted import Hosted
from rmt.serve.jobs import Job, Size
from rmt.serve.limits import Limits
from rmt.terminal import complain


class Pixels:
    """The pixels of decoded images: one that would exceed the limit waits until others are done."""

    limit: int
    used: int

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.used + count <= self.limit)
            self.used += count

    def give_back(self, count: int) -> None:
        with self._changed:
            self.used -= count
            self._changed.notify_all()


@dataclass(frozen=True)
class _Prepared:
    """A photograph as the network takes it: as that network, since another may be loaded before its turn."""

    predictor: Predictor
    size: Size
    sample: Any


class Work:
    """Answers for images.

    Args:
        hosted: the network.
        limits: of the server.
        on_batch: see `Batcher`.
    """

    hosted: Hosted
    limits: Limits
    accepted: int

    def __init__(self, hosted: Hosted, limits: Limits, on_batch: Callable[[int, float], None]) -> None:
        self.hosted, self.limits = hosted, limits
        self.accepted = 0  # images that are not answered yet; changed by the event loop alone
        self.pixels: Pixels = Pixels(limits.pixels)
        self._decoders = ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 1)), thread_name_prefix="rmt-decode")
        self._finishers = ThreadPoolExecutor(2, thread_name_prefix="rmt-finish")
        self.batcher: Batcher = Batcher(
            _run, lambda: 1 if one_by_one(hosted.predictor) else limits.max_batch, limits.max_wait, on_batch
        )

    async def answers(self, images: list[bytes], job: Job) -> list[Any]:
        """Returns for each image its answer, or the BadImage of one that cannot be used.

        Raises:
            Busy: there is more to do than the server accepts, or it takes too long.
        """
        if self.accepted + len(images) > self.limits.max_queue:
            raise Busy(self.accepted * self.batcher.seconds_per_item)
        self.accepted += len(images)
        tasks: list[asyncio.Task[Any]] = []
        try:
            async with asyncio.timeout(self.limits.timeout):
                if len(images) == 1:  # a task of its own costs time
                    return [await self._answer(images[0], job)]
                tasks += [asyncio.create_task(self._answer(image, job)) for image in images]
                return await asyncio.gather(*tasks)
        except TimeoutError:
            raise Busy(self.accepted * self.batcher.seconds_per_item) from None
        finally:
            for task in tasks:
                task.cancel()
            self.accepted -= len(images)

    async def _answer(self, data: bytes, job: Job) -> Any:
        held, predictor, loop = _Held(self.pixels), self.hosted.predictor, asyncio.get_running_loop()

        def prepare() -> _Prepared:
            with held.decoded(data, self.limits.max_pixels) as photo:
                return _Prepared(predictor, photo.size, job.prepare(predictor, photo))

        try:
            prepared = await loop.run_in_executor(self._decoders, prepare)
            future = held.until(self.batcher.submit((job.kind, id(predictor)), (job, prepared)))
            found = await asyncio.wrap_future(future)
            if not job.draws(predictor):
                return job.finish(predictor, prepared.size, found)
            return await loop.run_in_executor(self._finishers, job.finish, predictor, prepared.size, found)
        except BadImage as error:
            return error
        except WrongSize as error:
            return BadImage("image", f"this network {error.reason}, which is what the image has after resizing")
        except RMTError as error:  # its message may name a file of the server, which is for the log alone
            complain(f"rmt serve: {error}")
            return BadImage("image", "this network cannot answer that; the server's log says why")
        finally:
            held.release()

    def close(self) -> None:
        """Finish what was accepted, and end the threads."""
        self._decoders.shutdown()
        self.batcher.close()
        self._finishers.shutdown()


def _run(kind: Hashable, items: list[tuple[Job, _Prepared]]) -> list[Any]:
    (job, first), *_ = items
    return job.run(first.predictor, [prepared.sample for _, prepared in items])


class _Held:
    """The pixels that one image takes, given back once nothing uses it: the request has ended, and so has the network.

    A request may end earlier than a decoder or the network that works on its image, when its client has gone.
    """

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.count = 0
        self._users = 1  # the request itself
        self._lock = threading.Lock()

    @contextmanager
    def decoded(self, data: bytes, max_pixels: int) -> Iterator[Image.Image]:
        """The image in these bytes, once there is room for its pixels."""
        height, width = read_size(data, "image")
        if height * width > max_pixels:
            raise BadImage("image", f"{width:,}×{height:,} pixels: above the limit of {max_pixels:,} pixels")
        with self._lock:
            self._users += 1
        try:
            self.pixels.take(height * width)
            with self._lock:
                self.count = height * width
            yield read_image(data, "image", max_pixels=max_pixels)
        finally:
            self.release()

    def until(self, future: Future) -> Future:
        """Hold on to the pixels also until this future is done."""
        with self._lock:
            self._users += 1
        future.add_done_callback(lambda _: self.release())
        return future

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            last = not self._users
        if last:
            self.pixels.give_back(self.count)
