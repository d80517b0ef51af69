"""Predict many image files: the next ones are read, and the last ones drawn and written, while the network runs."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from rmt.data.images import BadImage, read_image
from rmt.inference.predictor import Predictor
from rmt.inference.results import ImageResult

_THREADS = 4
_BEHIND = 8  # images that may wait to be drawn and written: each keeps its pictures in memory

Written = tuple[int, ImageResult | BadImage, dict[str, str]]


def predict_files(
    predictor: Predictor,
    files: Sequence[Path],
    write: Callable[[int, ImageResult], dict[str, str]],
    **options: Any,
) -> Iterator[Written]:
    """Yields (number, result or the error of a file that cannot be read, what `write` returned) of each file, in order.

    Args:
        predictor: predicts `batch_size` images at a time.
        files: image files.
        write: (number, result) draws and writes the pictures, in another thread, and returns their paths.
        options: keywords of the predictor's `result`.
    """
    waiting: deque[Written | tuple[int, ImageResult, Future]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            for batch in _read_ahead(pool, files, predictor.batch_size):
                photos = [photo for _, photo in batch if isinstance(photo, Image.Image)]
                results = iter(predictor.results(photos, **options) if photos else [])
                for number, photo in batch:
                    if isinstance(photo, BadImage):
                        waiting.append((number, photo, {}))
                    else:
                        result = next(results)
                        waiting.append((number, result, pool.submit(write, number, result)))
                while waiting and (len(waiting) > _BEHIND or _finished(waiting[0][2])):
                    yield _written(waiting.popleft())
            while waiting:
                yield _written(waiting.popleft())
        except (Exception, KeyboardInterrupt):  # the images so far are predicted
            while waiting:
                yield _written(waiting.popleft())
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _read_ahead(
    pool: ThreadPoolExecutor, files: Sequence[Path], size: int
) -> Iterator[list[tuple[int, Image.Image | BadImage]]]:
    """Batches of (number, image or error), of which the next one is read while the current one is used."""
    ahead: deque[list[tuple[int, Future]]] = deque()
    for start in range(0, len(files), size):
        part = enumerate(files[start : start + size], start)
        ahead.append([(number, pool.submit(_read, file)) for number, file in part])
        if len(ahead) > 1:
            yield [(number, image.result()) for number, image in ahead.popleft()]
    while ahead:
        yield [(number, image.result()) for number, image in ahead.popleft()]


def _read(file: Path) -> Image.Image | BadImage:
    try:
        return read_image(file)
    except BadImage as error:
        return error


def _finished(files: Any) -> bool:
    return not isinstance(files, Future) or files.done()


def _written(entry: Any) -> Written:
    number, result, files = entry
    return number, result, files.result() if isinstance(files, Future) else files
