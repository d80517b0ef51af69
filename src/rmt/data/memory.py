"""Decoded images kept in memory: decoding a small JPEG takes longer than augmenting it."""

import time
from typing import Any

import numpy as np
from PIL import Image

from rmt.data.sets import ImageSet

CACHE_BYTES = 512 * 2**20
"""Memory for the decoded images of a set, over all processes that load it."""

_OBJECT_BYTES = 2048  # of a Pillow image beside its pixels


class CachedSet:
    """The images of `parent`, each decoded once and then kept, until `limit` bytes are used; later ones are not kept.

    Each process has images of its own; a copy for another process begins empty.

    Attributes:
        decoding_seconds: what loading the images of `parent` has taken in this process.
    """

    decoding_seconds: float

    def __init__(self, parent: ImageSet, limit: int = CACHE_BYTES):
        self.parent = parent
        self.limit = limit
        self.classes: tuple[str, ...] = parent.classes
        self.labels: np.ndarray = parent.labels
        self._images: dict[int, Image.Image] = {}
        self._room = limit
        self._full = False  # whether an image had no room
        self.decoding_seconds = 0.0

    def __len__(self) -> int:
        return len(self.parent)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_images": {}, "_room": self.limit, "_full": False}

    def load(self, index: int) -> Image.Image:
        image = self._images.get(index)
        if image is None:
            began = time.monotonic()
            image = self.parent.load(index)
            self.decoding_seconds += time.monotonic() - began
            size = 4 * image.width * image.height + _OBJECT_BYTES  # Pillow uses 4 bytes for an RGB pixel
            if size <= self._room:
                image.readonly = 1  # methods that change an image change a copy then
                self._images[index] = image
                self._room -= size
            else:
                self._full = True
        return image

    def source(self, index: int) -> bytes | Image.Image:
        """The image if it is kept, or may be; then the bytes of its file, which is faster than to decode it here."""
        return self.parent.source(index) if self._full and index not in self._images else self.load(index)

    def kept_share(self) -> float:
        """The share of the images that there is memory for, judged by those that this process has loaded."""
        expected = (self.limit - self._room) / max(len(self._images), 1) * len(self)
        return min(self.limit / expected, 1.0) if expected else 0.0

    def name(self, index: int) -> str:
        return self.parent.name(index)

    def facts(self, index: int) -> tuple[str, str]:
        return self.parent.facts(index)
