"""Whichever way an image comes, it is the image that `read_image` makes of its file."""

import io

import numpy as np
import pytest
import torch
from helpers.image_sets import encode
from PIL import Image

from rmt.data.images import BadImage, read_image
from rmt.inference import inputs
from rmt.inference.inputs import as_list, open_image, open_or_error

DRAW = np.random.default_rng(0)
RGBA = DRAW.integers(0, 256, (5, 7, 4), dtype=np.uint8)
GREY_16 = DRAW.integers(0, 65_536, (5, 7)).astype(np.uint16)
FLOAT = DRAW.random((5, 7), dtype=np.float32)


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.fromarray(RGBA[..., :3]), "PNG", exif=exif.tobytes())


FILES = {
    "turned by EXIF": turned(),
    "16 bits": encode(Image.fromarray(GREY_16), "PNG"),
    "alpha": encode(Image.fromarray(RGBA), "PNG"),
    "grey and alpha": encode(Image.fromarray(RGBA[..., :2]), "PNG"),
    "floating point": encode(Image.fromarray(FLOAT), "TIFF"),
    "transparent colour": encode(Image.fromarray(RGBA[..., 0]).convert("P"), "PNG", transparency=1),
    "CMYK": encode(Image.fromarray(RGBA, "CMYK"), "TIFF"),
    "one bit": encode(Image.fromarray(RGBA[..., 0] > 99), "PNG"),
}


def pixels(image) -> np.ndarray:
    opened = open_image(image)
    assert opened.mode == "RGB"
    return np.asarray(opened)


@pytest.mark.parametrize("kind", FILES)
def test_path_bytes_and_pil_image_are_equal(kind: str, tmp_path):
    wanted = np.asarray(read_image(FILES[kind]))
    path = tmp_path / "file"
    path.write_bytes(FILES[kind])
    lazy, loaded = Image.open(io.BytesIO(FILES[kind])), Image.open(path)
    loaded.load()
    before = loaded.tobytes(), loaded.mode, loaded.size
    for image in (path, str(path), FILES[kind], bytearray(FILES[kind]), lazy, loaded):
        assert np.array_equal(pixels(image), wanted)
    assert (loaded.tobytes(), loaded.mode, loaded.size) == before  # the caller's image is as it was


@pytest.mark.parametrize(
    ("values", "file"),
    [
        (RGBA[..., :3], encode(Image.fromarray(RGBA[..., :3]), "PNG")),
        (RGBA[..., 0], encode(Image.fromarray(RGBA[..., 0]), "PNG")),
        (RGBA[..., :1], encode(Image.fromarray(RGBA[..., 0]), "PNG")),
        (RGBA[..., :2], FILES["grey and alpha"]),
        (RGBA, FILES["alpha"]),
        (GREY_16, FILES["16 bits"]),
        (GREY_16.astype(">u2"), FILES["16 bits"]),
        (FLOAT, FILES["floating point"]),
        (FLOAT.astype(np.float64), FILES["floating point"]),
        (RGBA[..., 0] > 99, FILES["one bit"]),
    ],
    ids=[
        "RGB",
        "grey",
        "grey, one channel",
        "grey and alpha",
        "alpha",
        "16 bits",
        "16 bits, big endian",
        "float32",
        "float64",
        "bool",
    ],
)
def test_an_array_and_a_tensor_are_what_a_file_of_them_is(values: np.ndarray, file: bytes):
    wanted = np.asarray(read_image(file))
    assert np.array_equal(pixels(values), wanted)
    assert np.array_equal(pixels(values[:, ::-1][:, ::-1]), wanted)  # not contiguous
    tensor = torch.from_numpy(values.astype(values.dtype.newbyteorder("="), order="C"))
    assert np.array_equal(pixels(tensor if values.ndim == 2 else tensor.permute(2, 0, 1)), wanted)


def test_floats_of_a_network_s_dtype_are_taken():
    image = torch.rand(3, 5, 7, requires_grad=True)
    assert np.abs(pixels(image.bfloat16()).astype(int) - pixels(image)).max() <= 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\).*channels last"),
        (torch.zeros(8, 8, 3), r"\(8, 8, 3\).*channels first"),
        (np.zeros((2, 3, 8, 8, 3), np.uint8), r"\(2, 3, 8, 8, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (torch.zeros(3, 0, 0), "no pixels"),
        (np.zeros((8, 8), np.int64), "int64"),
        (np.zeros((8, 8), complex), "complex128"),
        (np.full((8, 8), "a"), "<U1"),
        (torch.randn(3, 8, 8) * 3, "not normalised"),
        (np.full((8, 8), np.nan), "not normalised"),
        (torch.zeros(3, 8, 8, device="meta"), "meta"),
        (torch.zeros(8, 8).to_sparse(), "sparse"),
        (torch.nested.nested_tensor([torch.zeros(3, 4), torch.zeros(2, 4)]), "nested"),
        (b"", "empty"),
        (b"no picture", "not an image"),
        (None, "a NoneType"),
        (7, "a int"),
        ("\0", "cannot be read"),
        (Image.new("RGB", (0, 4)), "no pixels"),
        (Image.open(io.BytesIO(FILES["alpha"][:60])), "cannot be decoded"),
    ],
)
def test_what_is_no_image_is_one_line_that_says_why(image, message):
    with pytest.raises(BadImage, match=message) as caught:
        open_image(image, "image 3")
    assert "\n" not in str(caught.value)
    error = open_or_error(image, "image 3")
    assert isinstance(error, BadImage) and str(error).startswith(str(image) if isinstance(image, str) else "image 3: ")


def test_sizes_are_checked_before_pixels_are_copied(monkeypatch):
    monkeypatch.setattr(inputs, "MAX_PIXELS", 10)
    huge = np.broadcast_to(np.uint8(0), (4, 4))
    with pytest.raises(BadImage, match="above the limit"):
        open_image(huge)


def test_a_batch_is_several_images():
    assert [len(as_list(several)[0]) for several in (np.zeros((4, 8, 8, 3)), torch.zeros(5, 3, 8, 8))] == [4, 5]
    assert [alone for _, alone in map(as_list, ["a", b"a", np.zeros((8, 8)), ["a"], ("a",)])] == [
        *(True, True, True),
        *(False, False),
    ]
    with pytest.raises(BadImage, match="NoneType"):
        as_list(None)
