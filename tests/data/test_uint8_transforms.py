"""The transform on uint8 tensors gives Pillow's images, from the same random numbers, up to a bound."""

import io
import itertools
import pickle

import numpy as np
import pytest
import torch
from helpers.image_sets import encode, picture
from PIL import Image
from timm.data import auto_augment

from rmt.data.image_loader import ImageLoader
from rmt.data.images import BadImage, read_image
from rmt.data.jpeg import _is_plain, decode
from rmt.data.memory import CachedSet
from rmt.data.randomness import preserve_rng_state, seed_sample, seed_words
from rmt.data.shifts import fast_operation
from rmt.data.sources.folders import FolderSet
from rmt.data.transforms import LimitAspect, Normalize, train_transform
from rmt.data.uint8_transforms import Uint8Transform, _limit_aspect

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
OPTIONS = {"mean": MEAN, "std": STD}


def photo(seed: int, size: tuple[int, int] = (90, 70)) -> Image.Image:
    """A smooth picture with a few edges."""
    image = picture(seed, (6, 5)).resize(size, Image.Resampling.BICUBIC)
    image.paste((250, 30, 90), (size[0] // 3, size[1] // 3, size[0] // 2, size[1] // 2))
    return image


def both(options: dict, draws: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """The images of Pillow's transform as grey levels, and ours, (N, 3, H, W)."""
    pillow = train_transform(32, **OPTIONS, **options)
    ours = pickle.loads(pickle.dumps(Uint8Transform(pillow)))  # as where worker processes are not forked
    to_levels = [torch.tensor(values).view(3, 1, 1) for values in (STD, MEAN)]
    made: list = []
    with preserve_rng_state():
        for draw in range(draws):
            data = encode(photo(draw), "JPEG", quality=92)
            seed_sample(seed_words(9, draw))
            theirs = (pillow(read_image(data)) * to_levels[0] + to_levels[1]) * 255
            seed_sample(seed_words(9, draw))
            made.append((theirs, ours(data)))
            assert made[-1][1].dtype == torch.uint8 and made[-1][1].shape == (3, 32, 32)
    theirs, mine = (torch.stack(images).numpy() for images in zip(*made, strict=True))
    return theirs, mine


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "random"])
def test_crops_and_flips_differ_by_rounding(interpolation: str):
    theirs, mine = both({"interpolation": interpolation, "vflip": 0.5})
    assert np.abs(theirs - mine).mean() < 0.1
    assert np.abs(theirs - mine).max() < 6


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m9-n4", "augmix-m5-w2", "v0", ""])
def test_augmentations_are_the_same(policy: str):
    jitter = {} if policy else {"color_jitter": 0.4}
    theirs, mine = both({"auto_augment": policy, "interpolation": "random", **jitter})
    assert np.abs(theirs - mine).mean() < 0.5  # solarize and posterize make more of a level
    assert np.median(np.abs(theirs - mine)) < 0.01


@pytest.mark.parametrize("mode", ["pixel", "rand", "const"])
def test_erased_rectangles_hold_the_same_noise_as_grey_levels(mode: str):
    theirs, mine = both({"erase_prob": 1.0, "erase_mode": mode, "scale": (1, 1), "hflip": 0.0})
    assert np.abs(theirs.clip(0, 255) - mine).mean() < 0.3  # rounded
    assert np.abs(theirs.clip(0, 255) - mine).max() < 6


@pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
@pytest.mark.parametrize("name", ["shear_x", "shear_y", "translate_x_rel", "translate_y_rel", "translate_x_abs"])
def test_shears_and_translations_are_pillows(name: str, resample: Image.Resampling):
    image, operation = photo(3, (40, 30)), fast_operation(name)
    assert operation is not None
    for amount in (0.237, -0.3, 0.0, 1.5, -2.0) if name != "translate_x_abs" else (7.3, -4.0, 0.5, 39.5, -200.0):
        options = {"resample": resample, "fillcolor": (1, 200, 30)}
        theirs = np.asarray(getattr(auto_augment, name)(image, amount, **options)).astype(int)
        difference = np.abs(theirs - np.asarray(operation(image, amount, **options)))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.04


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


FILES = {
    "baseline": (encode(photo(0), "JPEG", quality=90), True),
    "full chroma": (encode(photo(1), "JPEG", quality=75, subsampling=0), True),
    "progressive": (encode(photo(2), "JPEG", progressive=True), True),
    "grey": (encode(photo(3).convert("L"), "JPEG"), True),
    "upright by EXIF": (encode(photo(4), "JPEG", exif=exif(1)), True),
    "rotated by EXIF": (encode(photo(4), "JPEG", exif=exif(6)), False),
    "CMYK": (encode(photo(5).convert("CMYK"), "JPEG"), False),
    "more bytes behind": (encode(photo(6), "JPEG") + b"more", False),
    "PNG": (encode(photo(7).convert("RGBA"), "PNG"), False),
    "odd sides": (encode(photo(8, (33, 1)), "JPEG"), True),
}


@pytest.mark.parametrize("name", FILES)
def test_decoding_is_that_of_pillow(name: str):
    data, plain = FILES[name]
    assert _is_plain(data) == plain
    assert np.array_equal(decode(data).numpy(), np.asarray(read_image(data)))


def test_what_pillow_refuses_is_refused():
    whole = encode(photo(0), "JPEG")
    progressive = encode(photo(0), "JPEG", progressive=True)
    scan = progressive.index(b"\xff\xda")
    large = bytearray(whole)
    at = large.index(b"\xff\xc0")
    large[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    for data in (
        *(b"", b"nothing", whole[:3], whole[:400], whole[: len(whole) // 2], bytes(large), whole[:20] + b"\xff\xd9"),
        progressive[:scan] + progressive[scan : scan + 40] * 150 + b"\xff\xd9",
    ):
        assert not _is_plain(data)
        with pytest.raises(BadImage):
            decode(data)


def test_damaged_headers_end_in_an_image_or_an_error():
    whole = encode(photo(0, (20, 16)), "JPEG", exif=exif(1))
    random = np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        for place in random.integers(2, len(data) - 2, 3):
            data[place] = random.integers(256)
        try:
            image = decode(bytes(data))
        except BadImage:
            continue
        assert image.dtype == torch.uint8 and image.shape[2] == 3


def test_long_images_are_cropped_alike():
    for size in ((3, 200), (200, 3), (64, 2), (10, 10)):
        image = picture(0, size)
        assert np.array_equal(
            _limit_aspect(torch.from_numpy(np.array(image))).numpy(), np.asarray(LimitAspect()(image))
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for number in range(18):
        path = root / "abc"[number % 3] / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(photo(number), "JPEG"))
    return root


def loader(images, *, workers: int = 0, shuffle: bool = True) -> ImageLoader:
    transform = train_transform(32, **OPTIONS, auto_augment="rand-m9-mstd0.5-inc1", erase_prob=0.5)
    return ImageLoader(images, Uint8Transform(transform), batch_size=4, shuffle=shuffle, seed=1, workers=workers)


def batches(one: ImageLoader, *epochs: int) -> list[torch.Tensor]:
    made: list[torch.Tensor] = []
    for epoch in epochs:
        one.set_epoch(epoch)
        made += [batch["image"] for batch in one]
    one.close()
    return made


def test_batches_depend_on_the_position_alone(folder):
    """Not on the workers, on images in memory, or on where a run was resumed."""
    images = FolderSet(folder)
    expected = batches(loader(images), 0, 1)
    assert expected[0].dtype == torch.uint8 and expected[0].shape == (4, 3, 32, 32)
    assert expected[0].is_contiguous(memory_format=torch.channels_last)
    for other in (loader(images, workers=2), loader(CachedSet(images)), loader(CachedSet(images, 60_000))):
        assert all(map(torch.equal, expected, batches(other, 0, 1)))
    first, second = loader(images), loader(images)
    begun = [batch["image"] for batch in itertools.islice(first, 2)]
    second.load_state_dict(first.state_dict())
    assert all(map(torch.equal, expected[:5], begun + batches(second, 0)))


def test_a_broken_file_is_named_and_replaced(folder, tmp_path):
    for path in folder.rglob("*.jpg"):
        target = tmp_path / path.parent.name / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes() if path.name != "04.jpg" else path.read_bytes()[:300])
    for images in (FolderSet(tmp_path), CachedSet(FolderSet(tmp_path))):
        bad = [found for batch in loader(images) for found in batch["bad"]]
        assert len(bad) == 1 and bad[0][0] == str(tmp_path / "b" / "04.jpg") and "decoded" in bad[0][1]


def test_memory_keeps_images_until_it_is_full_then_passes_files_on(folder):
    cached = CachedSet(FolderSet(folder), limit=60_000)  # two images of 90x70
    kinds = [type(cached.source(index)) for index in range(6)]
    assert kinds[:2] == [Image.Image] * 2 and kinds[3:] == [bytes] * 3
    assert isinstance(cached.source(0), Image.Image)
    assert io.BytesIO(cached.source(5)).read(2) == b"\xff\xd8"


def test_normalisation_on_the_device_is_that_of_the_worker():
    images = torch.randint(256, (3, 5, 4, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    normalize = Normalize(MEAN, STD)
    made = normalize.batch(images)
    assert torch.equal(made, torch.stack([normalize(image) for image in images]))
    assert made.is_contiguous()


def test_padding_is_left_to_pillow():
    for options in ({"pad_to": 40}, {"crop_padding": 4}):
        with pytest.raises(ValueError, match="Pillow"):
            Uint8Transform(train_transform(32, **OPTIONS, **options))
