"""The 1× and 3×+MS transforms: sizes, boxes and masks that follow the pixels, draws that depend on the position."""

import numpy as np
import pytest
import torch
from helpers.coco_sets import annotation, make_coco, make_split, open_coco, write_json
from PIL import Image

from rmt.data.detection.coco import find_split
from rmt.data.detection.transforms import (
    DetectionEvalTransform,
    DetectionTrainTransform,
    RandomSidesCrop,
    collate_lists,
    train_augmentation,
)
from rmt.data.loader import BatchLoader

SIDES_3X = tuple(range(480, 801, 32))


@pytest.fixture
def images(tmp_path):
    return open_coco(*find_split(make_coco(tmp_path), "train"), with_masks=True)


def shown(images, pipeline, index, seed=0):
    torch.manual_seed(seed)
    return DetectionTrainTransform(images, pipeline)(images.load(index), index)


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (800, 1066)), ((640, 480), (1066, 800)), ((300, 1000), (399, 1333))]
)
def test_one_schedule_has_short_side_800_and_long_side_at_most_1333(size, expected):
    height, width = size
    look = DetectionEvalTransform(800, 1333)
    found = look(Image.new("RGB", (width, height)))[0].shape[1:]
    assert all(abs(a - b) <= 1 for a, b in zip(found, expected, strict=True)), found


def test_three_schedule_draws_every_short_side(images):
    pipeline = train_augmentation(SIDES_3X, 1333)
    short = {min(shown(images, pipeline, 0, seed)[0].shape[1:]) for seed in range(80)}
    assert {-(-side // 32) * 32 for side in short} == set(SIDES_3X)  # the resize rounds down


def test_half_of_the_images_of_three_schedule_are_cropped_between_384_and_600(tmp_path):
    make_split(tmp_path, "train", 1, seed=0, size=(480, 640))
    images = open_coco(*find_split(tmp_path, "train"), with_masks=False)
    crops = []

    class Spy(RandomSidesCrop):
        def transform(self, inpt, params):
            crops.append((params["height"], params["width"]))
            return super().transform(inpt, params)

    from rmt.data.detection import transforms as detection_views

    kept, detection_views.RandomSidesCrop = detection_views.RandomSidesCrop, Spy
    try:
        pipeline = train_augmentation(SIDES_3X, 1333, random_crop=True)
    finally:
        detection_views.RandomSidesCrop = kept
    shapes = []
    cropped = 0
    for seed in range(60):
        crops.clear()
        shapes.append(tuple(shown(images, pipeline, 0, seed)[0].shape[1:]))
        if crops:
            cropped += 1
            assert len(set(crops)) == 1  # pixels and boxes by the same draw
            assert all(384 <= side <= 600 for side in crops[0])
    assert 20 < cropped < 40
    near = [min(shape) + off in SIDES_3X for shape in shapes for off in (0, 1)]  # the resize rounds down
    assert all(
        one or other or max(shape) >= 1332 for one, other, shape in zip(near[::2], near[1::2], shapes, strict=True)
    )


@pytest.mark.parametrize("random_crop", [False, True])
def test_boxes_and_masks_follow_the_pixels(tmp_path, random_crop):
    """The targets are found again in the picture: each object is the only red there is."""
    pixels = np.full((700, 900, 3), 90, dtype=np.uint8)
    pixels[200:420, 300:650] = (255, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = dict(images=[{"id": 1, "file_name": "a.png", "height": 700, "width": 900}])
    content |= dict(annotations=[annotation(1, 1, 4, (300, 200, 350, 220))], categories=[{"id": 4, "name": "red"}])
    images = open_coco(tmp_path, write_json(tmp_path / "some.json", content), with_masks=True)
    flips = set()
    for seed in range(12):
        image, target = shown(images, train_augmentation((480, 640), 900, random_crop=random_crop), 0, seed)
        assert image.dtype is torch.uint8
        red = image[0].int() - image[1].int() > 127
        if not len(target["boxes"]):
            assert not red.any()
            continue
        rows, columns = torch.where(red)
        found = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        assert (found - target["boxes"][0]).abs().max() <= 1.5
        wrong = (target["masks"][0].bool() != red).float().mean()
        assert wrong < 0.005
        assert target["labels"].tolist() == [0] and target["masks"].shape[1:] == image.shape[1:]
        flips.add(bool(found[0] < image.shape[2] - found[2]))
    assert flips == {True, False}


def test_an_image_may_lose_all_its_objects(tmp_path):
    Image.new("RGB", (900, 700)).save(tmp_path / "a.png")
    content = dict(images=[{"id": 1, "file_name": "a.png", "height": 700, "width": 900}])
    content |= dict(annotations=[annotation(1, 1, 4, (0, 0, 20, 20))], categories=[{"id": 4, "name": "red"}])
    images = open_coco(tmp_path, write_json(tmp_path / "some.json", content), with_masks=True)
    counts = {}
    for seed in range(30):
        image, target = shown(images, train_augmentation((480,), 900, random_crop=True), 0, seed)
        counts[len(target["boxes"])] = target
        assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])
    assert set(counts) == {0, 1}


def train_loader(images, **options):
    view = DetectionTrainTransform(images, train_augmentation((64, 96), 200))
    return BatchLoader(images, view, collate_lists, shuffle=True, seed=3, groups=images.groups, **options)


def test_batches_depend_on_seed_epoch_and_position_alone(images):
    def batches(workers, start=0):
        loader = train_loader(images, batch_size=2, workers=workers)
        loader.load_state_dict({"epoch": 1, "batches": start})
        made = list(loader)
        loader.close()
        return made

    whole = batches(0)
    assert len(whole) == 3 and sorted(i for batch in whole for i in batch["index"].tolist()) == list(range(6))
    for workers, start in ((0, 1), (2, 0), (2, 2)):
        for one, other in zip(whole[start:], batches(workers, start), strict=True):
            assert one["index"].tolist() == other["index"].tolist()
            for a, b in zip(one["image"], other["image"], strict=True):
                assert torch.equal(a, b)
            for a, b in zip(one["target"], other["target"], strict=True):
                assert a.keys() == b.keys() == {"boxes", "labels", "masks"}
                assert all(torch.equal(a[key], b[key]) and type(a[key]) is torch.Tensor for key in a)


def test_evaluation_batches_name_what_cannot_be_read(images, tmp_path):
    (tmp_path / "train2017/000106.png").write_bytes(b"not a picture")
    loader = BatchLoader(images, DetectionEvalTransform(128, 400), collate_lists, batch_size=4, shuffle=False)
    first, second = loader
    assert first["index"].tolist() == [0, 1, 3] and second["index"].tolist() == [4, 5]
    assert "000106.png" in first["bad"][0][0] and first["target"] == [{}, {}, {}]
    assert [tuple(image.shape[1:]) for image in first["image"]] == [(128, 192), (192, 128), (192, 128)]


def test_a_set_of_one_image_makes_batches(tmp_path):
    make_split(tmp_path, "train", 1, seed=0)
    images = open_coco(*find_split(tmp_path, "train"), with_masks=True).without_empty()
    (batch,) = train_loader(images, batch_size=1)
    assert len(batch["image"]) == 1 and len(batch["target"][0]["boxes"])


def outlines(target) -> list[list[float]]:
    """The box around each mask, as left, top, right, bottom."""
    found = []
    for mask in target["masks"].numpy():
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        found.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return found


@pytest.mark.parametrize("change", [dict(vertical_flip=1.0), dict(scales=(0.5, 2.0)), dict(scales=(1.5, 2.0))])
def test_boxes_follow_masks_and_pixels(images, change):
    pipeline = train_augmentation((64,), 200, flip=0.0, **change)
    for seed in range(8):
        pixels, target = shown(images, pipeline, 0, seed)
        assert pixels.shape[1:] == target["masks"].shape[1:]
        if not len(target["boxes"]):  # cropped away
            continue
        assert np.abs(target["boxes"].numpy() - outlines(target)).max() <= 1.5
        for mask, label in zip(target["masks"].bool(), target["labels"].tolist(), strict=True):
            red, _, blue = pixels[:, mask].float().mean(1).tolist()
            assert (red > blue) == (label == 0)


def test_scale_jitter_keeps_the_size_or_makes_it_smaller(images):
    sizes = {
        tuple(shown(images, train_augmentation((64,), 200, scales=(0.5, 2.0)), 0, s)[0].shape[1:]) for s in range(20)
    }
    assert (64, 96) in sizes and min(min(size) for size in sizes) < 50 and max(max(size) for size in sizes) <= 96


def test_rotated_boxes_hold_their_objects(images):
    pipeline = train_augmentation((64,), 200, flip=0.0, rotation=20.0)
    for seed in range(8):
        pixels, target = shown(images, pipeline, 0, seed)
        assert pixels.shape[1:] == (64, 96)
        for box, mask in zip(target["boxes"].tolist(), target["masks"], strict=True):
            rows, columns = torch.where(mask)
            if len(rows):
                assert box[0] - 1.5 <= columns.min() and columns.max() <= box[2] + 1.5
                assert box[1] - 1.5 <= rows.min() and rows.max() <= box[3] + 1.5


def test_colours_change_and_boxes_do_not(images):
    plain, _ = shown(images, train_augmentation((64,), 200, flip=0.0), 0)
    changed, target = shown(images, train_augmentation((64,), 200, flip=0.0, distortion=1.0), 0)
    assert changed.dtype == torch.uint8 and not torch.equal(plain, changed)
    assert np.abs(target["boxes"].numpy() - outlines(target)).max() <= 1


@pytest.mark.parametrize(
    ("size", "expected"), [((2, 3000), (3, 64, 1)), ((3000, 2), (3, 1, 64)), ((1, 1), (3, 32, 32))]
)
def test_a_side_of_a_thin_image_keeps_a_pixel(size, expected):
    image, _ = DetectionEvalTransform(32, 64)(Image.new("RGB", size))
    assert image.shape == expected
