"""Random numbers that depend only on the position of a sample or a step.

Every random draw of the data layer comes from (seed, epoch, position), so it depends neither on the number of workers
nor on earlier draws. Augmentations draw from the global generators of Python, numpy and torch; these are seeded for
each sample and restored afterwards, so that the caller's own draws are not affected.

The draws of the network in training (drop path, dropout, mixing) come from (seed, epoch, batch, rank): the generators
are seeded for each step, so that a resumed run repeats them although no random state is saved.

Only generators whose output numpy guarantees between versions are used (`SeedSequence` and raw PCG64 output, not
`Generator.permutation`): a seed must divide a folder in the same way next year.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.random import PCG64, SeedSequence

# The first key of every seed, so that no two purposes share a random sequence.
ORDER, AUGMENT, REPLACE, HOLD_OUT, PACK = range(5)


def seed_words(purpose: int, *keys: int, count: int = 7) -> np.ndarray:
    """`count` uint32 words, a function of the purpose and of non-negative integer keys."""
    return SeedSequence((purpose, *keys)).generate_state(count)


def permutation(n: int, purpose: int, *keys: int) -> np.ndarray:
    """A permutation of 0…n−1, int64 (n,): the ranking of n random 64-bit numbers."""
    return np.argsort(PCG64(SeedSequence((purpose, *keys))).random_raw(n), kind="stable")


def seed_process(*keys: int) -> None:
    """Seed the global generators of Python, numpy and torch (all devices) from non-negative integer keys."""
    first, second, third = SeedSequence(keys).generate_state(3)
    _seed_python_and_numpy(int(first), int(second))
    torch.manual_seed(int(third))


def seed_sample(seed: np.ndarray) -> None:
    """Seed the global CPU generators of Python, numpy and torch from 7 words. The GPUs' generators are not touched."""
    _seed_python_and_numpy(int.from_bytes(seed[:4].tobytes(), "little"), int(seed[4]))
    torch.default_generator.manual_seed(int(seed[5]) << 32 | int(seed[6]))


def _seed_python_and_numpy(python: int, numpy: int) -> None:
    random.seed(python)
    np.random.seed(numpy)  # noqa: NPY002 - timm's augmentations and its Mixup draw from the legacy generator


@contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore the global CPU generators of Python, numpy and torch on exit."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.default_generator.set_state(states[2])
