"""Randomness that is a function of where a sample or a step stands, and of nothing else.

Every random draw of the data layer comes from (seed, epoch, position), so it depends neither on the number of workers
nor on what was drawn before. The augmentations draw from the global generators of Python, numpy and torch: those are
seeded for each sample, and put back afterwards so that the caller's own draws are not disturbed.

What the network draws in training (drop path, dropout, mixing) comes from (seed, epoch, batch, rank) in the same way:
the generators are seeded for each step, so that a resumed run repeats them although no random state is saved.

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


def seed_words(purpose: int, *keys: int, count: int = 7) -> np.ndarray:
    """`count` uint32 words that depend on the purpose and on non-negative integer keys only."""
    return SeedSequence((purpose, *keys)).generate_state(count)


def permutation(n: int, purpose: int, *keys: int) -> np.ndarray:
    """A permutation of 0…n−1, int64 (n,): the order of n random 64-bit numbers."""
    return np.argsort(PCG64(SeedSequence((purpose, *keys))).random_raw(n), kind="stable")


def seed_process(*keys: int) -> None:
    """Seed the global generators of Python, numpy and torch, every device's, from non-negative integer keys."""
    first, second, third = SeedSequence(keys).generate_state(3)
    _seed_python_and_numpy(int(first), int(second))
    torch.manual_seed(int(third))


def seed_sample(seed: np.ndarray) -> None:
    """Seed the global CPU generators of Python, numpy and torch from 7 words. A GPU's, which are a step's, stay."""
    _seed_python_and_numpy(int.from_bytes(seed[:4].tobytes(), "little"), int(seed[4]))
    torch.default_generator.manual_seed(int(seed[5]) << 32 | int(seed[6]))


def _seed_python_and_numpy(python: int, numpy: int) -> None:
    random.seed(python)
    np.random.seed(numpy)  # noqa: NPY002 - timm's augmentations and its Mixup draw from the legacy generator


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Put the global generators back where they were, whatever happens inside."""
    kept = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002
        torch.default_generator.set_state(kept[2])
