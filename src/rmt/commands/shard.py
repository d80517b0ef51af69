"""`rmt shard FOLDER OUT`: an image folder as parquet shards."""

from pathlib import Path
from typing import Annotated

import tyro


def run(
    folder: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    *,
    shard_images: int = 2_000,
    shuffle: bool = True,
    seed: int = 0,
    workers: int = 0,
) -> None:
    """Pack an image folder into parquet shards, which `--data OUT` then takes.

    Each image is decoded once to see that it can be, each shard read back and compared. Stopped half-way, the same
    command goes on where it was.

    Args:
        folder: An image folder: `train/CLASS/*` and `val/CLASS/*`, or class folders.
        output: The folder for the shards.
        shard_images: Images per shard; 2,000 of ImageNet's are about 220 MB.
        shuffle: Put the training images in a random order; without it they keep the folder's.
        seed: What that order follows from.
        workers: Processes that pack; 0 takes one per core.
    """
    from rmt.data.sources.packing import pack

    packed = pack(folder, output, shard_images=shard_images, shuffle=shuffle, seed=seed, workers=workers)
    print(f"{output}: {packed.images:,} images, {packed.bytes / 1e6:,.1f} MB, {packed.written} shards written now")
    for name, reason in list(packed.bad.items())[:5]:
        print(f"left out: {name} ({reason})")
    if len(packed.bad) > 5:
        print(f"… {len(packed.bad)} images left out in all")
