"""How many images go through the network together. On a CPU more are not always faster: what a batch of 32 computes
fits neither the caches nor the memory that the allocator keeps, so the number is measured."""

import time

import numpy as np
import torch
from PIL import Image

from rmt.inference import Predictor

SECONDS = 1.0
_GAIN = 1.03
"""A larger batch, for which the first image waits longer, must be faster by this factor."""


def one_by_one(predictor: Predictor) -> bool:
    """Whether the network takes one image at a time anyway."""
    shape = getattr(predictor.runtime, "shape", (None,))
    return predictor.batch_size == 1 or shape[0] == 1


def fastest_batch(predictor: Predictor, most: int, seconds: float = SECONDS) -> int:
    """Returns which of 1, 2, 4, … images up to `most` take the least time each when they go through together.

    Each number is tried twice, in ascending order, as long as the next is expected to end within `seconds`. On a GPU,
    which larger batches keep busier, it is `most` without a measurement.

    Args:
        predictor: one that takes several images.
        most: the largest number.
        seconds: for all trials; one image alone may take longer.
    """
    if predictor.device.type != "cpu":
        return most
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)
    sample = predictor.transform()(Image.fromarray(noise))
    # What other programs take counts only where threads wait for each other.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter

    def run(size: int) -> float:
        began = clock()
        predictor.run(predictor.collate([sample] * size))
        return (clock() - began) / size

    end, size, best, least = clock() + seconds, 1, 1, float("inf")
    while size <= most:
        each = run(size)
        if clock() < end:
            each = min(each, run(size))
        if each * _GAIN < least:
            best, least = size, each
        size *= 2
        if clock() + 2 * size * each > end:
            break
    return best
