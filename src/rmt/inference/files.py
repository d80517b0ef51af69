"""What `rmt predict` shows of each image: pictures are drawn and written while the network runs on the next images."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

from rmt.data.images import BadImage
from rmt.inference.bulk.stream import Selection, stream
from rmt.inference.predictor import Predictor
from rmt.inference.results import ImageResult

_THREADS = 4
_BEHIND = 8  # images that may wait to be drawn and written: each keeps its pictures in memory

Written = tuple[int, ImageResult | BadImage, dict[str, str]]


def predict_files(
    predictor: Predictor,
    images: Selection,
    write: Callable[[int, ImageResult], dict[str, str]],
    *,
    batch_size: int | None = None,
    workers: int = 2,
    **options: Any,
) -> Iterator[Written]:
    """Yields (number, result or the error of an image that cannot be read, what `write` returned) of each, in order.

    Args:
        predictor: the network.
        images: what to read.
        write: (number, result) draws and writes the pictures, in another thread, and returns their paths.
        batch_size, workers: see `stream`.
        options: keywords of the predictor's `run` and `show`.
    """
    shown = {key: options.pop(key) for key in list(options) if key in predictor.show_options}
    waiting: deque[tuple[int, ImageResult | BadImage, Future | None]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            batches = stream(
                predictor, images, lambda b: predictor.run(b, **options), batch_size=batch_size, workers=workers
            )
            for batch in batches:
                found: list[tuple[int, Any]] = [*zip(batch.indices, batch.outputs, strict=True), *batch.bad]
                for number, output in sorted(found, key=lambda entry: entry[0]):
                    if isinstance(output, BadImage):
                        waiting.append((number, output, None))
                    else:
                        result = predictor.show(output, partial(images.collection.load, number), **shown)
                        waiting.append((number, result, pool.submit(write, number, result)))
                while waiting and (len(waiting) > _BEHIND or waiting[0][2] is None or waiting[0][2].done()):
                    yield _written(*waiting.popleft())
            while waiting:
                yield _written(*waiting.popleft())
        except (Exception, KeyboardInterrupt):  # the images so far are predicted
            while waiting:
                yield _written(*waiting.popleft())
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _written(number: int, result: ImageResult | BadImage, files: Future | None) -> Written:
    return number, result, files.result() if files else {}
