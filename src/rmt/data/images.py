"""Read one image safely: the result is an upright 8-bit RGB image, or a `BadImage` error.

- The header is read first; an image of more than `MAX_PIXELS` is refused before any pixel is decoded.
- Only `FORMATS` are tried: Pillow has decoders that run a program (EPS) or have no use here.
- 16-bit grey is scaled to 8 bits, not clipped; alpha is composited on white; the EXIF rotation is applied.
- Work is bounded, too: a JPEG of more than `MAX_SCANS` is refused, and decoding ends after `MAX_SECONDS`.
- Of an animation or a multi-page file the first frame is used.
- A broken EXIF block is ignored, and with it the rotation.
"""

import ctypes
import io
import logging
import os
import stat
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, _imaging

from rmt.errors import RMTError

MAX_PIXELS = 100_000_000
"""Largest width × height that is decoded (300 MB as RGB)."""
MAX_SIDE = 2**17
"""Longest side in pixels; resizing takes memory for each pixel of a line (a gigabyte for 50 million)."""

MAX_BYTES = 512 * 2**20
"""Largest file that is read into memory."""
_STRIP_PIXELS = 2**20  # that are laid on white together

MAX_SCANS = 100
"""Largest number of scans of a JPEG that is decoded: each may be a few bytes and takes a pass over the image."""

MAX_SECONDS = 30.0
"""Longest time that a decoder may take, checked each time that it asks for more of the file."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
)
"""Extensions of the files that count as images, in lower case."""

# Large images are refused by our own limit, and broken EXIF is expected, so Pillow's warnings are only noise. The
# filters are set once: `catch_warnings` around each image is not thread-safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


def _silence_decoders() -> None:
    """Keep Pillow and libtiff from writing errors to stderr that Pillow raises, too."""
    logging.getLogger("PIL").addHandler(logging.NullHandler())  # otherwise Python prints what nobody handles
    with suppress(OSError, AttributeError):  # Pillow without libtiff
        # The symbol is looked up in the libraries that Pillow's decoders were linked with.
        ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


_silence_decoders()


class BadImage(RMTError):
    """An image that cannot be used.

    `predict` puts it in the place of an image among several, and raises it for an image alone.

    Attributes:
        name: which image: its path, "image" for one image in memory, or "image I" for number I of several, from 0.
        reason: why it cannot be used, in one line.
    """

    name: str
    reason: str

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)  # both, so that it survives pickling between processes
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def read_image(
    source: Path | str | bytes | Image.Image, name: str | None = None, *, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode an image file, or the bytes of one, to an upright 8-bit RGB image; an opened image becomes the same.

    Args:
        source: path or bytes of the file, or an image of Pillow's, which is not changed.
        name: what an error calls the image; the path by default.
        max_pixels: a file of more is refused before any pixel is decoded.
    Raises:
        BadImage: the image cannot be used, for whatever reason.
    """
    name = name or ("image" if isinstance(source, bytes | Image.Image) else str(source))
    if isinstance(source, Image.Image):
        return _convert(source, name)
    with open_safely(source, name, max_pixels) as image:
        with suppress(Exception):  # broken EXIF; after `load`, because PNG may have EXIF behind its pixels
            ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image, name)


def _convert(image: Image.Image, name: str) -> Image.Image:
    """An image that Pillow has opened already, whose pixels may not have been decoded yet."""
    try:
        _check_size(image, name)
        if not image.width * image.height:
            raise BadImage(name, "it has no pixels")
        image.load()
        with suppress(Exception):  # broken EXIF
            image = ImageOps.exif_transpose(image) if image.getexif() else image
        return _to_rgb(image, name)
    except BadImage:
        raise
    except Exception as error:  # a closed file, or broken bytes
        raise BadImage(name, f"cannot be decoded ({_one_line(error)})") from None


@contextmanager
def open_safely(source: Path | str | bytes, name: str, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Context manager that yields an image with decoded pixels, neither rotated nor converted.

    Any error, also one raised inside the `with` block, becomes a `BadImage` called `name`.
    """
    data = source if isinstance(source, bytes) else read_bytes(source, name)
    if not data:
        raise BadImage(name, "the file is empty")
    try:
        with Image.open(_Source(data), formats=FORMATS) as image:
            _check_size(image, name, max_pixels)
            # Inside the compressed pixels 0xFF is followed by other bytes, so this counts too many only where a preview
            # in the header has scans of its own.
            if image.format == "JPEG" and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
                raise BadImage(name, f"a JPEG of {scans:,} scans: above the limit of {MAX_SCANS}")
            image.load()
            yield image
    except BadImage:
        raise
    except _TooSlow:
        raise BadImage(name, f"not decoded within {MAX_SECONDS:g} s") from None
    except Image.UnidentifiedImageError:
        raise BadImage(name, "not an image in a format that can be read") from None
    except Image.DecompressionBombError as error:  # Pillow's own, higher limit, checked before the size is known
        raise BadImage(name, _too_large(_one_line(error).partition(" exceeds")[0])) from None
    except Exception as error:  # decoders raise nearly any exception for broken bytes, also MemoryError
        raise BadImage(name, f"cannot be decoded ({_one_line(error)})") from None


class _TooSlow(BaseException):
    """Decoding takes too long. Pillow's plugins catch what derives from Exception."""


class _Source(io.BytesIO):
    """The bytes of a file, which end with `_TooSlow` when they are read for longer than `MAX_SECONDS`."""

    def __init__(self, data: bytes):
        super().__init__(data)
        self._end = time.monotonic() + MAX_SECONDS

    def read(self, size: int | None = -1, /) -> bytes:
        if time.monotonic() > self._end:
            raise _TooSlow
        return super().read(size)


def read_bytes(path: Path | str, name: str) -> bytes:
    """The content of a file. Raises `BadImage`, also for files that are too large or not regular files."""
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise BadImage(name, "a folder, not an image file")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device might never end
            raise BadImage(name, "not a regular file")
        if status.st_size > MAX_BYTES:
            raise BadImage(name, f"the file has {status.st_size:,} bytes, the limit is {MAX_BYTES:,}")
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reasons: dict[type, str] = {FileNotFoundError: "no such file", PermissionError: "no permission to read it"}
        raise BadImage(name, reasons.get(type(error), f"cannot be read ({_one_line(error)})")) from None


def read_size(source: Path | str | bytes, name: str | None = None) -> tuple[int, int]:
    """(height, width) of the upright image, from the header of a file or the bytes of one. Raises `BadImage`."""
    name = name or ("image" if isinstance(source, bytes) else str(source))
    try:
        with _open_header(source) as image:
            width, height = image.size
            turned = _orientation(image) >= 5
    except Exception:  # plugins raise nearly any exception for a broken header
        read_image(source, name)  # raises BadImage with the reason
        raise BadImage(name, "the header cannot be read") from None
    return (width, height) if turned else (height, width)


def read_orientation(path: Path | str) -> int:
    """The EXIF orientation in the header of a file: 1 for upright, or if there is none or it cannot be read."""
    with suppress(Exception), _open_header(path) as image:
        return _orientation(image)
    return 1


def _open_header(source: Path | str | bytes) -> Image.Image:
    """The image with undecoded pixels. Raises ValueError where opening the file might never end."""
    if isinstance(source, bytes):
        return Image.open(io.BytesIO(source), formats=FORMATS)
    if not stat.S_ISREG(os.stat(source).st_mode):
        raise ValueError("not a regular file")
    return Image.open(source, formats=FORMATS)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8, without decoding pixels: Pillow would decode a PNG whose EXIF is behind its pixels."""
    with suppress(Exception):  # broken EXIF
        if image.format != "PNG" or "exif" in image.info:
            value = image.getexif().get(ExifTags.Base.Orientation, 1)
            return value if value in range(1, 9) else 1
    return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_grey_to_8_bit(image, name)).convert("RGB")
    image = _on_white(image) if image.has_transparency_data else image.convert("RGB")
    image.info = {}  # do not pass on the profiles and texts of the file
    return image


def _on_white(image: Image.Image) -> Image.Image:
    """RGB of an image with transparency, in strips of rows: layers of the whole image would take 12 bytes a pixel."""
    flat, rows = Image.new("RGB", image.size), max(1, _STRIP_PIXELS // max(1, image.width))
    for top in range(0, image.height, rows):
        layer = image.crop((0, top, image.width, min(top + rows, image.height))).convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        flat.paste(Image.alpha_composite(white, layer).convert("RGB"), (0, top))
    return flat


def _grey_to_8_bit(image: Image.Image, name: str) -> np.ndarray:
    """Grey values of more than 8 bits, (h, w), scaled to uint8: 65,535 becomes 255."""
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):  # also false for NaN
            raise BadImage(name, "floating-point pixels outside 0…1")
        grey = np.rint(values * 255).astype(np.uint8)
    else:
        if values.min() < 0 or values.max() > 65_535:
            raise BadImage(name, "grey values of more than 16 bits")
        grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey = np.where(values == transparent, np.uint8(255), grey)
    return grey


def _check_size(image: Image.Image, name: str, max_pixels: int = MAX_PIXELS) -> None:
    what = f"{image.width:,}×{image.height:,} pixels"
    if image.width * image.height > max_pixels:
        raise BadImage(name, _too_large(what, max_pixels))
    if max(image.size) > MAX_SIDE:
        raise BadImage(name, f"{what}: a side above the limit of {MAX_SIDE:,} pixels")


def _too_large(what: str, limit: int = MAX_PIXELS) -> str:
    return f"{what}: above the limit of {limit:,} pixels"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "…"
