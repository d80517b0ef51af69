"""Randomness that is a function of where a sample stands, and of nothing else.

Every random draw of the data layer comes from (seed, epoch, position), so it depends neither on the number of workers
nor on what was drawn before. The augmentations draw from the global generators of Python, numpy and torch: those are
seeded for each sample, and put back afterwards so that the caller's own draws are not disturbed.

Only streams that numpy promises to keep between versions are used (`SeedSequence` and raw PCG64 output, not
`Generator.permutation`): the same seed must split a folder the same way next year.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random import PCG64, SeedSequence

# The first word of every seed, so that no two purposes ever share a stream.
ORDER, AUGMENT, REPLACE, HOLD_OUT, PACK = range(5)


def words(purpose: int, *keys: int, count: int = 7) -> np.ndarray:
    """`count` uint32 words that depend on the purpose and on non-negative integer keys only."""
    return SeedSequence((purpose, *keys)).generate_state(count)


def permutation(n: int, purpose: int, *keys: int) -> np.ndarray:
    """A permutation of 0…n−1, int64 (n,): the order of n random 64-bit numbers."""
    return np.argsort(PCG64(SeedSequence((purpose, *keys))).random_raw(n), kind="stable")


def seed_everything(seed: np.ndarray) -> None:
    """Seed the global CPU generators of Python, numpy and torch from 7 words."""
    random.seed(int.from_bytes(seed[:4].tobytes(), "little"))
    np.random.seed(seed[4])  # noqa: NPY002 - timm's augmentations draw from the legacy generator
    torch.default_generator.manual_seed(int(seed[5]) << 32 | int(seed[6]))


@contextmanager
def global_state_kept() -> Iterator[None]:
    """Put the global generators back where they were, whatever happens inside."""
    kept = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.default_generator.set_state(kept[2])
