"""Decode an image to a uint8 tensor: JPEGs by simplejpeg if it is installed, else by torchvision.

The pixels are those of `read_image`: all three decoders are libjpeg-turbo with the same settings. What that reader
refuses or converts in a way of its own (rotation by EXIF, CMYK, truncated files, many scans) is left to it, and so are
all images if a later torchvision has no decoder: it is deprecated there.
"""

import warnings
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor

from rmt.data.images import MAX_PIXELS, read_image

_MOST_SCANS = 12  # a progressive JPEG usually has ten; torchvision's decoder has no limit of time
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, all with Huffman coding
_MESSAGE = "The image decoding and encoding capabilities of TorchVision are deprecated"
_SCAN = 0xDA
_SKIPPED = {*range(0xE0, 0xF0), 0xDB, 0xC4, 0xDD, 0xFE}  # APPn, tables, restart interval, comment


def _jpeg_decoder() -> Callable[[bytes], Tensor] | None:
    """The fastest decoder that is installed: bytes to uint8 (H, W, 3)."""
    with suppress(ImportError):
        from simplejpeg import decode_jpeg as decode_array

        return lambda data: torch.from_numpy(decode_array(data))
    with suppress(ImportError):
        from torchvision.io import ImageReadMode, decode_jpeg

        warnings.filterwarnings("ignore", category=DeprecationWarning, message=_MESSAGE)
        return lambda data: decode_jpeg(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB
        ).permute(1, 2, 0)
    return None


_decode_jpeg = _jpeg_decoder()


def decode(source: bytes | Image.Image) -> Tensor:
    """uint8 (H, W, 3), upright RGB, from the bytes of an image file, or from such an image. Raises `BadImage`."""
    if isinstance(source, Image.Image):
        return torch.from_numpy(np.array(source))
    if _decode_jpeg is not None and _is_plain(source):
        try:
            return _decode_jpeg(source)
        except (RuntimeError, ValueError):  # broken: the other reader has the reason, or more patience
            pass
    return torch.from_numpy(np.array(read_image(source)))


def _is_plain(data: bytes) -> bool:
    """Whether the bytes are a whole JPEG of grey or colour, upright, of bounded work, as its header says."""
    if not data.startswith(b"\xff\xd8") or not data.endswith(b"\xff\xd9"):
        return False
    at, frame, components = 2, 0, 0
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], _number(data, at + 2)
        if marker in _FRAMES:
            pixels = _number(data, at + 5) * _number(data, at + 7)
            frame, components = marker, data[at + 9]
            if data[at + 4] != 8 or components not in (1, 3) or not 0 < pixels <= MAX_PIXELS:
                return False
        elif marker == _SCAN:
            whole = frame != 0xC2 and data[at + 4] == components  # the first scan is the only one
            return frame != 0 and (whole or data.count(b"\xff\xda") <= _MOST_SCANS)
        elif marker == 0xE1:
            if not _is_upright(data[at + 4 : at + 2 + length]):
                return False
        elif marker not in _SKIPPED:
            return False
        at += 2 + length
    return False


def _number(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _is_upright(segment: bytes) -> bool:
    """Whether the EXIF or XMP data in an APP1 segment leave the image as it is."""
    if not segment.startswith(b"Exif\0\0"):
        return b"Orientation" not in segment
    exif = Image.Exif()
    try:
        exif.load(segment)
        return exif.get(ExifTags.Base.Orientation, 1) == 1
    except Exception:  # broken EXIF: any exception
        return False
