"""What one server accepts: sizes, numbers and times, so that no request and no crowd of them exhausts the machine."""

from dataclasses import dataclass

from rmt.data.images import MAX_PIXELS
from rmt.errors import RMTError


@dataclass(frozen=True)
class Limits:
    """Limits of a server; `rmt serve` has an option for most.

    Attributes:
        max_body: bytes of a request.
        max_images: images of a request.
        max_pixels: width × height of an image.
        max_queue: images that are accepted and not answered yet; beyond it the answer is 503.
        max_batch: images that go through the network together.
        max_wait: seconds that an image waits for others to go with, while the network is idle.
        timeout: seconds for sending a request, and again for answering it.
        max_connections: open at a time.
    """

    max_body: int = 32 * 2**20
    max_images: int = 16
    max_pixels: int = 50_000_000
    max_queue: int = 128
    max_batch: int = 32
    max_wait: float = 0.002
    timeout: float = 30.0
    max_connections: int = 2048

    def __post_init__(self) -> None:
        whole = ("max_body", "max_images", "max_pixels", "max_queue", "max_batch", "max_connections")
        for name in whole:
            if getattr(self, name) < 1:
                raise RMTError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.max_images > self.max_queue:
            raise RMTError(
                f"--max-images {self.max_images} is above --max-queue {self.max_queue}: a request of so many is always "
                "refused; lower the one or raise the other"
            )
        if self.max_pixels > MAX_PIXELS:
            raise RMTError(f"--max-pixels must be at most {MAX_PIXELS // 10**6} million")
        if not 0 <= self.max_wait <= 10:
            raise RMTError(f"--max-wait must lie between 0 and 10,000 milliseconds, not {1000 * self.max_wait:g}")
        if not 0 < self.timeout <= 3600:
            raise RMTError(f"--timeout must lie between 0 and 3,600 seconds, not {self.timeout:g}")

    @property
    def bodies(self) -> int:
        """Bytes of all requests that are being sent or wait, together."""
        return 8 * self.max_body

    @property
    def pixels(self) -> int:
        """Pixels of all decoded images, together (3 bytes each, and as many again while one is rotated)."""
        return 2 * self.max_pixels
