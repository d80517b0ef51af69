"""How the kernels of attention are launched: the fastest settings that were measured."""

from typing import NamedTuple


class Lines(NamedTuple):
    """How a kernel of `lines` is launched."""

    warps: int
    stages: int  # of the software pipeline
    registers: int | None  # most of a thread; None: as many as the compiler takes
    programs: int  # that a multiprocessor holds at a time, among which images and lines are divided
    prefetch: bool = False  # load ahead into registers; of the forward kernel only


class Blocks(NamedTuple):
    """How a kernel of `long` is launched: the lengths of its blocks of queries and of keys, and as in `Lines`."""

    queries: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None


WIDEST = 32  # largest head width that was measured, in 16 bits
# The fastest measured on an H200 (benchmarks/gpu/tuning.json): forward and backward, by the tokens of a tile, or "wide"
# for one of 64 tokens and heads of more than 16 channels.
LINES: dict[int | str, tuple[Lines, Lines]] = {
    16: (Lines(1, 2, 96, 20), Lines(1, 3, 168, 12)),
    32: (Lines(1, 3, None, 7), Lines(2, 3, 168, 6)),
    64: (Lines(4, 2, 128, 4, prefetch=True), Lines(4, 4, 168, 3)),
    "wide": (Lines(4, 3, None, 4), Lines(4, 3, None, 4)),
}
# The fastest without a limit of registers, which would be wrong for wider heads and for float32, and which programs of
# PyTorch's compiler cannot set.
LINES_UNLIMITED: dict[int | str, tuple[Lines, Lines]] = {
    16: (Lines(1, 3, None, 16), Lines(1, 4, None, 9)),
    32: (Lines(1, 3, None, 7), Lines(1, 2, None, 8)),
    64: (Lines(4, 3, None, 4), Lines(4, 1, None, 3)),
    "wide": LINES["wide"],
}
# By the largest head width; those above 32 were not measured. The queries of a forward kernel are a multiple of those
# of the others.
LONG: dict[int, dict[str, Blocks]] = {
    16: dict(forward=Blocks(32, 32, 1, 3, 112), queries=Blocks(32, 32, 1, 3, 128), keys=Blocks(32, 128, 4, 3)),
    32: dict(forward=Blocks(32, 32, 1, 3), queries=Blocks(32, 32, 1, 2), keys=Blocks(32, 64, 4, 3)),
    128: dict(forward=Blocks(64, 64, 4, 1), queries=Blocks(64, 64, 4, 1), keys=Blocks(64, 64, 4, 1)),
}
ROTATED = (128, 4)  # tokens of a program of `long.rotate`, warps
