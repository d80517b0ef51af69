"""Images and image sets made up for the tests of the data layer."""

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from rmt.data.images import BadImage

ANT_OR_BEE = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])})


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of `image` as a file of the format `kind`."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(seed: int, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """An RGB image of noise, (width, height)."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise)


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """A tar of `samples`: key -> {extension: bytes}."""
    with tarfile.open(path, "w") as tar:
        for key, parts in samples.items():
            for extension, data in parts.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


class MemorySet:
    """`count` plain images: number i has the grey value i mod 256, and the label i mod 3. Those in `broken` are bad."""

    classes = ("ant", "bee", "cat")

    def __init__(self, count: int, broken: tuple[int, ...] = ()):
        self.labels = np.arange(count, dtype=np.int64) % 3
        self.broken = frozenset(broken)

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Image.Image:
        if index in self.broken:
            raise BadImage(self.name(index), "broken on purpose")
        return Image.new("RGB", (4, 4), (index % 256,) * 3)

    def name(self, index: int) -> str:
        return f"memory/{index}"


def row(seed: int) -> dict[str, object]:
    """The column `image` of a shard's row: `picture(seed)` as PNG."""
    return {"bytes": encode(picture(seed), "PNG"), "path": f"{seed}.png"}


@contextmanager
def without_privileges() -> Iterator[None]:
    """As an ordinary user, for tests of permissions that root would not notice."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
