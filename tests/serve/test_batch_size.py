"""The number of images that go through the network together: the one with the least time for each."""

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("fastapi")

from rmt.serve import batch_size as module
from rmt.serve.batch_size import fastest_batch, one_by_one


class Clock:
    """Time that passes only while a network runs."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    process_time = perf_counter


def network(clock, seconds, device="cpu"):
    """A predictor that takes `seconds[n]` for n images, and the sizes of the batches that it was asked for."""
    asked = []

    def run(batch):
        asked.append(len(batch))
        clock.now += seconds[len(batch)]

    predictor = SimpleNamespace(
        device=torch.device(device), transform=lambda: lambda image: image, collate=list, run=run
    )
    return predictor, asked


@pytest.mark.parametrize(
    ("each", "expected"),
    [
        ([0.010, 0.009, 0.007, 0.009, 0.012, 0.012], 4),
        ([0.010, 0.005, 0.004, 0.003, 0.002, 0.001], 32),
        ([0.010, 0.011, 0.012, 0.013, 0.013, 0.013], 1),
        ([0.010, 0.0099, 0.0098, 0.0098, 0.0098, 0.0098], 1),
    ],
    ids=["four", "all", "one", "as fast as one"],
)
def test_the_size_with_the_least_time_for_each_image_is_taken(monkeypatch, each, expected):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    seconds = {2**k: 2**k * value for k, value in enumerate(each)}
    predictor, asked = network(clock, seconds)
    assert fastest_batch(predictor, 32, seconds=10) == expected
    assert asked == [size for size in (1, 2, 4, 8, 16, 32) for _ in range(2)]


def test_the_measurement_ends_in_its_time(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    predictor, asked = network(clock, {2**k: 2**k * 0.03 for k in range(6)})
    assert fastest_batch(predictor, 32, seconds=1.0) == 1
    assert max(asked) == 8 and clock.now <= 1.0
    slow, asked = network(clock, {1: 5.0})
    assert fastest_batch(slow, 32, seconds=1.0) == 1 and asked == [1]


def test_a_gpu_is_not_measured():
    predictor, asked = network(Clock(), {}, device="cuda")
    assert fastest_batch(predictor, 32) == 32 and not asked


def test_networks_that_take_one_image_at_a_time_need_no_measurement():
    shape = lambda *sides: SimpleNamespace(shape=sides)  # noqa: E731
    assert one_by_one(SimpleNamespace(batch_size=1, runtime=SimpleNamespace()))
    assert one_by_one(SimpleNamespace(batch_size=32, runtime=shape(1, 3, 32, 32)))
    assert not one_by_one(SimpleNamespace(batch_size=32, runtime=shape(None, 3, 32, 32)))
    assert not one_by_one(SimpleNamespace(batch_size=32, runtime=SimpleNamespace()))
