"""Which sample is at which position of an epoch, and which process takes it: arithmetic only, no images.

An epoch is a sequence of *positions* 0…T−1. Each position shows one sample, and each process takes every
`world_size`-th position. Step k of all processes together covers the positions k·B·W … (k+1)·B·W − 1, so W processes
with batches of B see in each step exactly the samples that one process with batches of B·W sees.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count, islice

import numpy as np

from rmt.data.randomness import ORDER, permutation
from rmt.errors import RMTError
from rmt.terminal import plural

Key = tuple[int, np.ndarray, np.ndarray]
"""One batch: the pass over the data that it belongs to, its positions in that pass, the samples at these positions."""

REPEAT_ROUND = 256
"""With repeated augmentation the length of an epoch is a multiple of this, as in DeiT's sampler."""


@dataclass(frozen=True, kw_only=True)
class EpochPlan:
    """The order of `samples` samples over `world_size` processes that take batches of `batch_size`.

    `shuffle=True` is training. A shuffled epoch has T = samples positions. With `repeats` r > 1 (repeated augmentation)
    each shuffled sample fills r consecutive positions and T = ⌊samples/256⌋·256, so that about samples/r samples are
    shown. Every process takes the same number of samples: fewer than `world_size` are left out, or with `drop_last`
    fewer than one global batch. With `groups` (samples,) the samples of a step are of one group; only the last few
    steps of an epoch, which use what the groups have left, mix them.

    With `balance` (samples,), the class of each sample, an epoch shows every class about as often: see `by_class`.

    `shard_order` is the order of streamed images: random over the shards and among the images of a few of them. Every
    process then takes a contiguous part of it, so that two processes read the same shard only at the borders.

    `shuffle=False` is evaluation: every sample exactly once, in order. Every process takes the same number of steps, so
    that its last batch may be short or empty.
    """

    samples: int
    batch_size: int
    shuffle: bool
    seed: int = 0
    drop_last: bool = False
    rank: int = 0
    world_size: int = 1
    repeats: int = 1
    groups: np.ndarray | None = field(default=None, repr=False, compare=False)
    balance: np.ndarray | None = field(default=None, repr=False, compare=False)
    shard_order: "ShardOrder | None" = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.repeats < 1 or not 0 <= self.rank < self.world_size:
            raise ValueError(f"batch_size and repeats must be at least 1 and rank below world_size: {self}")
        if self.seed < 0:
            raise RMTError(f"the seed must not be negative: {self.seed}")
        if not self.shuffle and (self.drop_last or self.repeats > 1):
            raise ValueError("drop_last and repeats are for training: an evaluation counts every sample once")
        if self.shuffle and self.steps == 0:
            if self.repeats > 1 and self.samples < REPEAT_ROUND:
                raise RMTError(
                    f"repeated augmentation needs at least {REPEAT_ROUND} training images, there are {self.samples:,}: "
                    "add --no-repeated-augmentation"
                )
            raise RMTError(
                f"one step takes {plural(self._step, 'image')} ({self.batch_size} × "
                f"{plural(self.world_size, 'process')}), but there are only {self.samples:,}: lower the batch size"
            )

    @property
    def _step(self) -> int:
        """Positions that one step of all processes covers."""
        return self.batch_size * self.world_size

    @property
    def positions(self) -> int:
        """Positions that all processes together take in an epoch."""
        total = self.samples if self.repeats == 1 else self.samples // REPEAT_ROUND * REPEAT_ROUND
        if not self.shuffle:
            return total
        unit = self._step if self.drop_last else self.world_size
        return total // unit * unit

    @property
    def steps(self) -> int:
        """Batches per epoch, the same for every process."""
        return -(-self.positions // self._step)

    def order(self, epoch: int) -> np.ndarray:
        """The sample at each position of an epoch, int64 (positions,)."""
        if not self.shuffle:
            return np.arange(self.samples)
        if self.shard_order is None:
            shuffled = permutation(self.samples, ORDER, self.seed, epoch)
        else:
            shuffled = self.shard_order.order(self.seed, epoch)
        if self.balance is not None:
            shuffled = by_class(shuffled, self.balance)
        if self.groups is not None:
            shuffled = by_group(shuffled, self.groups, self._step)
        shown = np.repeat(shuffled[: -(-self.positions // self.repeats)], self.repeats)[: self.positions]
        if self.shard_order is None:
            return shown
        return shown.reshape(self.world_size, -1).T.reshape(-1)  # part r is at the positions r, r + W, r + 2W, …

    def batch(self, step: int) -> np.ndarray:
        """The positions this process takes in one step, int64 (at most batch_size,)."""
        start = step * self._step
        return np.arange(start + self.rank, min(start + self._step, self.positions), self.world_size)

    def keys(self, epoch: int, start: int = 0) -> Iterator[Key]:
        """This process's batches of an epoch, from step `start` on."""
        order = self.order(epoch)
        for step in range(start, self.steps):
            positions = self.batch(step)
            yield epoch, positions, order[positions]


@dataclass(frozen=True)
class FixedLengthEpochs:
    """Epochs of `steps` steps each, for training by iterations: passes over the data follow each other without a gap.

    Step k of epoch e is step e·steps + k of the endless sequence of `plan`'s own epochs, so the length of an epoch (how
    often the network is evaluated) does not change which images are shown.
    """

    plan: EpochPlan
    steps: int

    @property
    def samples(self) -> int:
        return self.plan.samples

    def keys(self, epoch: int, start: int = 0) -> Iterator[Key]:
        """This process's batches of an epoch, from step `start` on."""
        data_pass, step = divmod(epoch * self.steps + start, self.plan.steps)
        later_passes = chain.from_iterable(map(self.plan.keys, count(data_pass + 1)))
        return islice(chain(self.plan.keys(data_pass, step), later_passes), self.steps - start)


def by_group(order: np.ndarray, groups: np.ndarray, size: int) -> np.ndarray:
    """Rearrange `order` into blocks of `size` samples of one group each, in the order in which the blocks are complete.

    The rest of each group follows at the end. `groups` is int64 (N,). The result has every sample of `order` once.
    """
    blocks: list[np.ndarray] = []
    rests: list[np.ndarray] = []
    for group in np.unique(groups):
        indices = np.flatnonzero(groups[order] == group)
        *whole, rest = np.split(indices, range(size, len(indices) + 1, size))
        blocks += whole
        rests.append(rest)
    blocks.sort(key=lambda block: block[-1])
    return order[np.concatenate(blocks + rests)]


def by_class(order: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """An order of as many positions in which every class takes its turn; its samples follow each other as in `order`.

    The samples of a small class are repeated, and an epoch shows only some of a large one. `order` is a permutation of
    all samples, and `classes` int64 (N,).
    """
    classes_in_order = classes[order]
    members = [order[classes_in_order == k] for k in dict.fromkeys(classes_in_order.tolist())]
    turns = -(-len(order) // len(members))
    table = np.stack([np.resize(samples, turns) for samples in members], axis=1)  # (turns, classes)
    return table.reshape(-1)[: len(order)]


@dataclass(frozen=True)
class ShardOrder:
    """A random order of all images that keeps the images of a shard near each other.

    The shards are shuffled and taken together until they have `buffer` images, and those are shuffled.

    Args:
        ends: int64 (shards,), the number of images up to the end of each shard.
        buffer: number of images among which the order is random.
    """

    ends: np.ndarray
    buffer: int

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """int64 (images,), a function of seed and epoch."""
        starts = np.concatenate([[0], self.ends[:-1]])
        shards = permutation(len(self.ends), ORDER, seed, epoch, 0)
        sizes = (self.ends - starts)[shards]
        window = (np.cumsum(sizes) - sizes) // self.buffer  # of each shard: that of its first image
        parts = []
        for number in np.unique(window):
            rows = np.concatenate([np.arange(starts[s], self.ends[s]) for s in shards[window == number]])
            parts.append(rows[permutation(len(rows), ORDER, seed, epoch, 1 + int(number))])
        return np.concatenate(parts)
