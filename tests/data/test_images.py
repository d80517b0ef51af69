"""Whatever the file, an upright RGB image or a `BadImage` with a reason comes out."""

import contextlib
import logging
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.image_sets import encode, picture, without_privileges
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rmt.data.images import FORMATS, MAX_PIXELS, MAX_SIDE, BadImage, read_image, read_orientation, read_size
from rmt.errors import RMTError

# Set by rmt.data.images too, but pytest starts each test with its own filters.
pytestmark = [
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.filterwarnings(r"ignore::UserWarning:PIL\."),
]


def pixels(data: bytes | Path) -> np.ndarray:
    return np.asarray(read_image(data))


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_png_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """A PNG file with one more chunk behind its header."""
    return data[:33] + png_chunk(kind, content) + data[33:]


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_mode_a_format_can_hold_becomes_rgb(kind: str):
    held = 0
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F"):
        try:
            data = encode(Image.new(mode, (5, 3)), kind)
        except (OSError, ValueError):  # Pillow cannot write it
            continue
        image = read_image(data)
        assert (image.mode, image.size, image.info) == ("RGB", (5, 3), {}), mode
        held += 1
    assert held >= 4


def test_one_pixel():
    assert pixels(encode(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG")).tolist() == [[[9, 8, 7]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_16_bit_grey_is_scaled_not_clipped(kind: str):
    ramp = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    read = pixels(encode(Image.fromarray(ramp), kind))
    np.testing.assert_array_equal(read, np.rint(ramp / 257).astype(np.uint8)[..., None].repeat(3, axis=2))


def test_16_bit_colour_is_scaled():
    rows = b"".join(b"\0" + struct.pack(">3H", 65_535, 32_896, 0) * 2 for _ in range(2))
    header = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    data = header + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    assert pixels(data)[0, 0].tolist() == [255, 128, 0]


def test_transparent_grey_value_of_16_bits_is_white():
    values = np.array([[0, 1000, 65_535]], np.uint16)
    assert pixels(encode(Image.fromarray(values), "PNG", transparency=1000))[0, :, 0].tolist() == [0, 255, 255]


def test_floats_in_0_to_1_are_read_and_others_refused():
    assert pixels(encode(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), "TIFF"))[0, :, 0].tolist() == [
        0,
        128,
        255,
    ]
    for value in (1.5, -0.1, np.nan):
        with pytest.raises(BadImage, match=r"outside 0…1"):
            read_image(encode(Image.fromarray(np.array([[value]], np.float32)), "TIFF"))
    with pytest.raises(BadImage, match="more than 16 bits"):
        read_image(encode(Image.fromarray(np.array([[70_000]], np.int32)), "TIFF"))


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])  # each gets an alpha channel
def test_alpha_is_composited_on_white(mode: str):
    image = Image.new(mode, (2, 1))
    image.putalpha(Image.frombytes("L", (2, 1), bytes([255, 128])))
    assert [value[0] for value in pixels(encode(image, "TIFF"))[0].tolist()] == [0, 127]


def test_transparent_palette_entry_is_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert pixels(encode(image, "PNG", transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert pixels(encode(image, "GIF", transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_exif_rotation_is_applied(kind: str, orientation: int):
    corners = np.kron(np.array([[0, 80], [160, 240]], np.uint8), np.ones((16, 24), np.uint8))
    stored = {
        1: corners,
        2: corners[:, ::-1],
        3: corners[::-1, ::-1],
        4: corners[::-1],
        5: corners.T,
        6: np.rot90(corners),
        7: corners[::-1, ::-1].T,
        8: np.rot90(corners, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = pixels(encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif.tobytes()))[..., 0]
    assert read.shape == corners.shape
    assert np.abs(read.astype(int) - corners)[4:-4, 4:-4].mean() < 8


@pytest.mark.parametrize(
    "data",
    [
        encode(picture(0), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff rubbish"),
        with_png_chunk(encode(picture(0), "PNG"), b"tEXt", b"Raw profile type exif\0\n\n\nno hex"),
    ],
    ids=["JPEG", "PNG"],
)
def test_broken_exif_costs_the_rotation_only(data: bytes):
    assert read_image(data).size == (12, 10)


def test_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert pixels(data)[0, 0].tolist() == [255, 0, 0], kind


@pytest.mark.parametrize("side", [40_000, 12_000])  # above Pillow's own limit, and between that and ours
def test_huge_header_is_refused_before_decoding(side: int):
    data = png_header(side, side) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    with pytest.raises(BadImage, match=f"above the limit of {MAX_PIXELS:,} pixels"):
        read_image(data, "huge.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGB", "L"])
def test_transparent_pixels_are_white_in_any_strips(mode, monkeypatch):
    values = np.random.default_rng(0).integers(0, 255, (23, 17, 4), dtype=np.uint8)
    image = Image.fromarray(values, "RGBA").convert(mode)
    if mode in ("P", "RGB", "L"):
        image.info["transparency"] = {"P": 3, "RGB": image.getpixel((1, 1)), "L": image.getpixel((1, 1))}[mode]
    layer = image.convert("RGBA")
    expected = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    for pixels_of_a_strip in (1, 40, 2**20):
        monkeypatch.setattr("rmt.data.images._STRIP_PIXELS", pixels_of_a_strip)
        assert read_image(image).tobytes() == expected.tobytes()


@pytest.mark.parametrize("size", [(50_000_000, 1), (1, MAX_SIDE + 1)])
def test_a_line_of_pixels_is_refused_before_decoding(size):
    data = png_header(*size) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100))
    with pytest.raises(BadImage, match=f"pixels: a side above the limit of {MAX_SIDE:,} pixels"):
        read_image(data, "line.png")
    assert read_image(encode(Image.new("L", (1, MAX_SIDE)), "PNG")).size == (1, MAX_SIDE)


@pytest.mark.parametrize("where", ["before", "behind"])
def test_oversize_text_is_refused(where: str):
    bomb = png_chunk(b"zTXt", b"bomb\0\0" + zlib.compress(b"x" * 100_000_000))
    data = encode(picture(0), "PNG")
    place = 33 if where == "before" else data.index(b"\0\0\0\0IEND")  # after IHDR, or after the pixels
    with pytest.raises(BadImage, match="too large"):
        read_image(data[:place] + bomb + data[place:])


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_in_the_middle(kind: str):
    data = encode(picture(0, (64, 64)), kind)
    with pytest.raises(BadImage):
        read_image(data[: len(data) // 2])


def test_what_is_no_image_file(tmp_path: Path):
    cases = {
        "empty.jpg": ("is empty", lambda path: path.touch()),
        "text.png": ("not an image", lambda path: path.write_text("hello")),
        "folder.png": ("a folder", lambda path: path.mkdir()),
        "pipe.png": ("not a regular file", os.mkfifo),
        "gone.png": ("no such file", lambda path: None),
        "loop.png": ("cannot be read", lambda path: path.symlink_to(path)),
        "figure.eps": ("not an image", lambda path: path.write_bytes(encode(picture(0), "EPS"))),
    }
    for name, (reason, make) in cases.items():
        make(tmp_path / name)
        with pytest.raises(BadImage, match=reason) as caught:
            read_image(tmp_path / name)
        assert caught.value.name == str(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(caught.value.name)


def test_no_permission(open_tmp_path: Path):
    path = open_tmp_path / "secret.png"
    picture(0).save(path)
    path.chmod(0)
    with without_privileges(), pytest.raises(BadImage, match="no permission"):
        read_image(path)


def test_bad_image_is_one_of_our_errors_and_survives_pickling():
    error = pickle.loads(pickle.dumps(BadImage("a.png", "empty")))
    assert isinstance(error, RMTError)
    assert (error.name, error.reason, str(error)) == ("a.png", "empty", "a.png: empty")


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["L", "RGB"]), st.sampled_from(["PNG", "PPM", "BMP"]))
@settings(max_examples=50, deadline=None)
def test_lossless_files_come_back_exactly(width: int, height: int, mode: str, kind: str):
    image = picture(width * height, (width, height)).convert(mode)
    np.testing.assert_array_equal(pixels(encode(image, kind)), np.asarray(image.convert("RGB")))


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_an_image_or_bad_image(data: bytes):
    _image_or_bad_image(data)


_VALID = {kind: encode(picture(3, (24, 20)), kind) for kind in FORMATS}


@given(st.sampled_from(FORMATS), st.data())
@settings(max_examples=300, deadline=None)
def test_any_damage_gives_an_image_or_bad_image(kind: str, data: st.DataObject):
    broken = bytearray(_VALID[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(broken) - 1))
        broken[place] = data.draw(st.integers(0, 255))
    _image_or_bad_image(bytes(broken[: data.draw(st.integers(len(broken) // 3, len(broken)))]))


def _image_or_bad_image(data: bytes) -> None:
    try:
        image = read_image(data)
    except BadImage as error:
        problem = error
    else:
        assert image.mode == "RGB"
        assert np.asarray(image).shape == (image.height, image.width, 3)
        return
    assert problem.reason
    assert "\n" not in str(problem)


def test_a_jpeg_of_very_many_scans_is_refused_before_it_is_decoded(monkeypatch):
    data = encode(picture(0).resize((64, 64)), "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    header = data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]
    many = data[:-2] + (header + b"\0\0") * 1000 + data[-2:]
    with pytest.raises(BadImage, match=r"a JPEG of 1,0\d\d scans: above the limit of 100"):
        read_image(many)
    assert read_image(data).size == (64, 64)
    monkeypatch.setattr("rmt.data.images.MAX_SCANS", 2000)
    assert read_image(many).size == (64, 64)  # nothing else is wrong with it


def test_an_image_that_takes_too_long_is_given_up(monkeypatch):
    comment = b"P6\n#" + b"x" * 10_000_000 + b"\n1 1\n255\n" + bytes(3)  # Pillow reads it byte by byte
    monkeypatch.setattr("rmt.data.images.MAX_SECONDS", 0.1)
    with pytest.raises(BadImage, match=r"not decoded within 0\.1 s"):
        read_image(comment)
    assert read_image(b"P6\n#short\n1 1\n255\n" + bytes(3)).size == (1, 1)


def test_decoders_print_nothing(capfd, caplog):
    generator = np.random.default_rng(0)
    for compression in ("tiff_lzw", "jpeg", "tiff_deflate", "packbits"):
        data = encode(picture(0, (50, 40)), "TIFF", compression=compression)
        for _ in range(40):
            broken = bytearray(data)
            for place in generator.integers(len(data), size=4):
                broken[place] = generator.integers(256)
            with contextlib.suppress(BadImage):
                read_image(bytes(broken))
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("PIL").hasHandlers()


def test_whatever_a_plugin_raises_for_a_header_is_a_bad_image(tmp_path):
    """AVIF's raises RuntimeError."""
    data = encode(picture(0), "AVIF")
    (tmp_path / "broken.avif").write_bytes(data.replace(b"pitm", b"pixm"))
    with pytest.raises(BadImage, match="broken.avif"):
        read_size(tmp_path / "broken.avif")
    assert read_orientation(tmp_path / "broken.avif") == 1
