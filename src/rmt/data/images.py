"""Reading one image file safely: whatever comes in, an upright 8-bit RGB image or a `BadImage` comes out.

The rules, one per kind of trouble:

- the header is read first, and an image above `MAX_PIXELS` is refused before a single pixel is decoded;
- only the formats of `FORMATS` are tried: Pillow knows others that run a program (EPS) or have no use here;
- 16-bit grey is scaled to 8 bits, not clipped; alpha is composited on white; EXIF rotation is applied;
- of an animation or a multi-page file the first frame is taken;
- a broken EXIF block costs the rotation, not the image.
"""

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from rmt.errors import RMTError

MAX_PIXELS = 100_000_000
"""Largest width × height that is decoded (300 MB as RGB); a header that claims more is refused."""

MAX_BYTES = 512 * 2**20
"""Largest file that is read into memory."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif"),
)
"""What a file must be called to count as an image, in lower case."""

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# We refuse large images by our own limit and survive broken EXIF; one warning per image of a large set is only noise.
# Filters set once, since `catch_warnings` around each image is not safe in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class BadImage(RMTError):
    """An image that cannot be used: `name` says which, `reason` why, in a few words."""

    def __init__(self, name: str, reason: str):
        super().__init__(name, reason)  # both, so that it survives pickling between processes
        self.name = name
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


def read_image(source: Path | str | bytes, name: str | None = None) -> Image.Image:
    """Decode an image file, or the bytes of one, into an upright 8-bit RGB image.

    `name` is what an error calls the image; the default is the path. Raises `BadImage` and nothing else.
    """
    name = name or ("image" if isinstance(source, bytes) else str(source))
    with open_safely(source, name) as image:
        return _to_rgb(_upright(image), name)


@contextmanager
def open_safely(source: Path | str | bytes, name: str) -> Iterator[Image.Image]:
    """An image file's decoded pixels as they are, neither turned upright nor converted.

    Whatever goes wrong, also in what the caller does with the pixels, is a `BadImage` called `name`.
    """
    data = source if isinstance(source, bytes) else _read_file(source, name)
    if not data:
        raise BadImage(name, "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadImage(name, _too_large(f"{width:,}×{height:,} pixels"))
            image.load()
            yield image
    except BadImage:
        raise
    except Image.UnidentifiedImageError:
        raise BadImage(name, "not an image in a format that can be read") from None
    except Image.DecompressionBombError as error:  # Pillow's own, higher limit, checked before we get to see the size
        raise BadImage(name, _too_large(_one_line(error).partition(" exceeds")[0])) from None
    except Exception as error:  # a decoder that is fed broken bytes raises nearly anything, MemoryError included
        raise BadImage(name, f"cannot be decoded ({_one_line(error)})") from None


def _read_file(path: Path | str, name: str) -> bytes:
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
    except FileNotFoundError:
        raise BadImage(name, "no such file") from None
    except PermissionError:
        raise BadImage(name, "no permission to read it") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise BadImage(name, f"cannot be read ({_one_line(error)})") from None


def _upright(image: Image.Image) -> Image.Image:
    """Undo the rotation of EXIF. After `load`: PNG may carry EXIF behind its pixels, and TIFF rotates by itself."""
    try:
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:
        return image
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_grey_to_8_bit(image, name)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer)
    image = image.convert("RGB")
    image.info = {}  # profiles and text of a stranger's file have no business further on
    return image


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


def _too_large(what: str) -> str:
    return f"{what}: above the limit of {MAX_PIXELS:,} pixels"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 120 else text[:117] + "…"
