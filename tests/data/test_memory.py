"""Images kept in memory are those of the set, decoded once, within the limit."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.image_sets import MemorySet

from rmt.data.image_loader import ImageLoader
from rmt.data.images import BadImage
from rmt.data.memory import CachedSet
from rmt.data.transforms import train_transform


class CountingSet(MemorySet):
    """Counts how often each image is decoded."""

    def __init__(self, count: int, broken: tuple[int, ...] = ()):
        super().__init__(count, broken)
        self.decoded: Counter[int] = Counter()

    def load(self, index: int):
        self.decoded[index] += 1
        return super().load(index)


def test_every_image_is_decoded_once():
    parent = CountingSet(20)
    cached = CachedSet(parent)
    for _ in range(3):
        for index in range(20):
            assert np.array_equal(cached.load(index), MemorySet(20).load(index))
    assert set(parent.decoded.values()) == {1}
    assert (len(cached), cached.classes, cached.name(3)) == (20, parent.classes, "memory/3")
    assert np.array_equal(cached.labels, parent.labels)


def test_the_limit_is_kept():
    parent = CountingSet(20)
    cached = CachedSet(parent, limit=10_000)  # four images of 4x4 pixels
    for _ in range(3):
        for index in range(20):
            cached.load(index)
    assert sorted(parent.decoded.values()) == [1] * 4 + [3] * 16
    assert cached.kept_share() == pytest.approx(4 / 20, abs=0.05)


def test_the_time_of_decoding_is_known_and_the_share_that_is_kept():
    cached = CachedSet(CountingSet(20))
    assert cached.decoding_seconds == 0 == cached.kept_share()
    cached.load(3)
    first = cached.decoding_seconds
    cached.load(3)
    assert cached.decoding_seconds == first > 0 and cached.kept_share() == 1
    too_large = CachedSet(CountingSet(20), limit=10)
    too_large.load(3)
    assert too_large.kept_share() == 0


def test_a_copy_for_another_process_begins_empty():
    cached = CachedSet(MemorySet(20))
    for index in range(20):
        cached.load(index)
    fresh = len(pickle.dumps(CachedSet(MemorySet(20))))
    assert len(pickle.dumps(cached)) == fresh


def test_a_broken_image_stays_broken():
    cached = CachedSet(MemorySet(5, broken=(2,)))
    for _ in range(2):
        with pytest.raises(BadImage, match="on purpose"):
            cached.load(2)


def test_augmentation_does_not_change_the_images_kept():
    transform = train_transform(8, auto_augment="rand-m9-mstd0.5-inc1", erase_prob=0.5, crop_padding=2)
    options = dict(batch_size=10, shuffle=True, seed=3)
    loaders = [ImageLoader(kept, transform, **options) for kept in (MemorySet(40), CachedSet(MemorySet(40)))]
    for epoch in range(3):
        for loader in loaders:
            loader.set_epoch(epoch)
        for expected, batch in zip(*loaders, strict=True):
            assert torch.equal(batch["image"], expected["image"])
