"""Predictions of many files: in order, each with its pictures, whatever cannot be read."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmt.data.images import BadImage
from rmt.data.sources.collection import open_collection
from rmt.inference.bulk.stream import Selection
from rmt.inference.files import predict_files
from rmt.inference.results import ImageResult


class Brightness:
    """Stands for a predictor: the first value of each image."""

    batch_size = 3
    show_options = ("offset",)
    collate = staticmethod(list)

    def __init__(self):
        self.batches = []

    def transform(self):
        return lambda image: image.getpixel((0, 0))[0]

    def run(self, batch):
        self.batches.append(len(batch))
        return batch

    def show(self, prediction, photo, offset=0):
        value = prediction + offset
        assert photo().getpixel((0, 0))[0] == prediction
        return ImageResult(str(value), {"value": value}, lambda: {"picture": Image.new("L", (1, 1), value)})


def selection(files) -> Selection:
    return Selection(open_collection(files), np.arange(len(files)))


@pytest.fixture
def files(tmp_path) -> list[Path]:
    """Eleven images of values 0 to 10; numbers 4 and 8 are no images."""
    found = []
    for number in range(11):
        found.append(tmp_path / f"{number}.png")
        Image.new("RGB", (2, 2), (number, 0, 0)).save(found[-1])
    for number in (4, 8):
        found[number].write_bytes(b"nothing")
    return found


def test_results_come_in_order_with_what_was_written(files):
    predictor, threads = Brightness(), set()

    def write(number, result):
        threads.add(threading.current_thread())
        return {"picture": f"{number}:{result.pictures['picture'].getpixel((0, 0))}"}

    found = list(predict_files(predictor, selection(files), write, offset=100))
    assert [number for number, _, _ in found] == list(range(11))
    for number, result, written in found:
        if number in (4, 8):
            assert isinstance(result, BadImage) and str(files[number]) in str(result) and written == {}
        else:
            assert result.values == {"value": 100 + number} and written == {"picture": f"{number}:{100 + number}"}
    assert predictor.batches == [3, 2, 2, 2]  # those of each three files that could be read
    assert threading.main_thread() not in threads


def test_an_error_while_writing_is_raised(files):
    def full(number, result):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        list(predict_files(Brightness(), selection(files), full))


def test_no_more_than_a_few_results_wait(files):
    """A consumer that stops early has read few files: the predictor does not run to the end."""
    predictor = Brightness()
    predictor.batch_size = 1
    iterator = predict_files(predictor, selection(files[:4] * 20), lambda number, result: {}, workers=0)
    next(iterator)
    iterator.close()
    assert sum(predictor.batches) < 40


def test_an_interruption_comes_after_the_results_so_far(files):
    class Interrupted(Brightness):
        batch_size = 1

        def run(self, batch):
            if len(self.batches) == 3:
                raise KeyboardInterrupt
            return super().run(batch)

    found = []
    with pytest.raises(KeyboardInterrupt):
        found.extend(predict_files(Interrupted(), selection(files), lambda number, result: {"number": str(number)}))
    assert [(number, written) for number, _, written in found] == [(n, {"number": str(n)}) for n in range(3)]
