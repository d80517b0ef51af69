"""`rmt shard FOLDER OUT`: an image folder as parquet shards."""

from pathlib import Path
from typing import Annotated

import tyro

from rmt.terminal import plural, say


def run(
    folder: Annotated[Path, tyro.conf.Positional],
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    *,
    shard_images: int = 2_000,
    short_side: int = 0,
    quality: int = 0,
    shuffle: bool = True,
    seed: int = 0,
    workers: int = 0,
) -> None:
    """Pack an image folder into parquet shards, which `--data OUT` then takes.

    With --short-side 256 large images are made smaller, for faster loading. Each image is decoded once as a check, and
    each shard is read back and compared. An interrupted command can be repeated; it continues where it stopped.

    Args:
        folder: An image folder: `train/CLASS/*`, `val/CLASS/*` and `test/CLASS/*`, or class folders.
        output: The folder for the shards.
        shard_images: Images per shard; 2,000 of ImageNet's are about 220 MB.
        short_side: Resize images whose short side is longer than this, in pixels, and write them as JPEG. 0 keeps every
            file as it is.
        quality: Quality of these JPEGs, 1 to 100; 0 is 90.
        shuffle: Put the training images in a random order, instead of that of the folder.
        seed: Seed of that order.
        workers: Number of processes; 0 uses one per core.
    """
    from rmt.data.sources.packing import pack

    packed = pack(
        folder,
        output,
        shard_images=shard_images,
        short_side=short_side,
        quality=quality,
        shuffle=shuffle,
        seed=seed,
        workers=workers,
    )
    say(
        f"{output}: {plural(packed.images, 'image')}, {packed.bytes / 1e6:,.1f} MB, "
        f"{plural(packed.written, 'shard')} written now"
    )
    for name, reason in list(packed.bad.items())[:5]:
        say(f"skipped: {name} ({reason})")
    if len(packed.bad) > 5:
        say(f"… {len(packed.bad)} images skipped in all")
