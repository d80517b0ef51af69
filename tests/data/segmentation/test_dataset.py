"""Folders of images and masks, and how they are shown."""

import random

import numpy as np
import pytest
import torch
from helpers.segment_data import CLASSES, make_segments, picture
from PIL import Image

from rmt.data.images import BadImage
from rmt.data.loader import BatchLoader
from rmt.data.segmentation.dataset import Pair, open_segmentation, open_segmentation_evaluation
from rmt.data.segmentation.transforms import (
    SegmentationEvalTransform,
    SegmentationTrainTransform,
    collate_crops,
    collate_lists,
    fitted_size,
    photometric_distortion,
)
from rmt.errors import RMTError

VIEW = SegmentationTrainTransform(
    crop=32,
    long_side=128,
    short_side=32,
    ratios=(0.5, 2.0),
    max_share=0.75,
    flip=0.5,
    distortion=0.5,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


def replaced(view, **changes):
    from dataclasses import replace

    return replace(view, **changes)


@pytest.mark.parametrize("ade", [False, True])
def test_both_layouts_give_the_same_pairs(tmp_path, ade):
    data = str(make_segments(tmp_path / "data", ade=ade))
    train, val, _ = open_segmentation(data, zero_is_ignored=ade)
    assert (len(train), len(val)) == (12, 4)
    assert len(open_segmentation_evaluation(data, zero_is_ignored=ade).images) == 4
    assert train.classes.names == CLASSES
    pixels, mask = picture(100)
    pair = val.load(0)
    np.testing.assert_array_equal(np.asarray(pair.image), pixels)
    np.testing.assert_array_equal(pair.mask, mask)


def test_a_folder_without_splits_is_divided_by_the_seed(tmp_path):
    make_segments(tmp_path, train=10, val=1)
    (tmp_path / "images" / "train").rename(tmp_path / "new")
    (tmp_path / "masks" / "train").rename(tmp_path / "new-masks")
    for name in ("images", "masks"):
        for file in sorted((tmp_path / name).rglob("*.png")):
            file.unlink()
        (tmp_path / name / "val").rmdir()
        (tmp_path / name).rmdir()
    (tmp_path / "new").rename(tmp_path / "images")
    (tmp_path / "new-masks").rename(tmp_path / "masks")
    *parts, skipped = open_segmentation(str(tmp_path), holdout=0.3, seed=1)
    assert [len(part) for part in parts] == [7, 3]
    assert skipped == {"train and val": {}}
    assert not set(parts[0].images) & set(parts[1].images)
    assert open_segmentation(str(tmp_path), holdout=0.3, seed=1).val.images == parts[1].images
    with pytest.raises(RMTError, match="cannot hold out 0 of 10 images .* --holdout"):
        open_segmentation(str(tmp_path), holdout=0.0)


def test_files_without_their_partner_are_counted(tmp_path):
    data = make_segments(tmp_path)
    (data / "masks" / "train" / "3.png").unlink()
    (data / "images" / "train" / "4.png").unlink()
    (data / "images" / "train" / "notes.txt").touch()
    (data / "images" / "train" / "5.webp").touch()
    (data / "masks" / "val" / "0.png").unlink()
    found, _, skipped = open_segmentation(str(data))
    assert len(found) == 10
    train = {"image without a mask": 1, "mask without an image": 1, "not an image": 1}
    train["same name as another but for the extension"] = 1
    assert skipped == {"train": train, "val": {"image without a mask": 1}}


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda root: (root / "classes.txt").unlink(), "no class list; put a classes.txt there.*--classes FILE"),
        (lambda root: (root / "masks").rename(root / "elsewhere"), "no folder with the masks"),
        (lambda root: (root / "images" / "val").rename(root / "images" / "other"), "no folder for val"),
        (lambda root: (root / "masks" / "train").rename(root / "masks" / "other"), "masks/train: no such folder"),
        (
            lambda root: [f.unlink() for f in (root / "masks" / "train").iterdir()],
            "no image of .* has a mask of its name",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_by_name(tmp_path, spoil, complaint):
    spoil(make_segments(tmp_path))
    with pytest.raises(RMTError, match=complaint):
        open_segmentation(str(tmp_path))
    with pytest.raises(RMTError, match="no such folder"):
        open_segmentation(str(tmp_path / "nowhere"))


def test_classes_are_matched_by_name(tmp_path):
    val = open_segmentation(str(make_segments(tmp_path))).val
    other = val.with_classes(("blue", "sky", "background", "red"))
    np.testing.assert_array_equal(other.load(0).mask, np.array([2, 3, 0])[val.load(0).mask])
    with pytest.raises(RMTError, match="does not know: blue"):
        val.with_classes(("background", "red"))


@pytest.mark.parametrize(
    ("size", "expected"),
    [((640, 480), (683, 512)), ((4000, 1000), (2048, 512)), ((6000, 1000), (2048, 341)), ((480, 640), (512, 683))],
)
def test_images_fit_2048_by_512_either_way_round(size, expected):
    assert fitted_size(size, 2048, 512) == expected
    assert fitted_size(size, 0, 0) == size


def test_strips_and_single_pixels_keep_a_pixel():
    assert fitted_size((1, 1), 2048, 512) == (512, 512)
    assert fitted_size((1, 100_000), 2048, 512) == (1, 2048)
    for size in ((1, 1), (1, 3000), (3000, 1)):
        pair = Pair(Image.new("RGB", size), np.zeros(size[::-1], dtype=np.uint8))
        shown = VIEW(pair, 0)
        assert shown["image"].shape == (3, 32, 32)
        assert set(shown["mask"].unique().tolist()) <= {0, 255}


def test_mask_and_image_stay_together():
    """A picture whose red channel is its mask: whatever resizing, cropping and flipping do, they do to both."""
    mask = (np.arange(40)[:, None] // 10 + 4 * (np.arange(64) // 16)).astype(np.uint8)  # cells larger than any blur
    image = Image.fromarray(np.stack([mask * 16] * 3, axis=2))
    view = replaced(VIEW, distortion=0.0, max_share=1.0, mean=(0, 0, 0), std=(1 / 255,) * 3)
    for seed in range(30):
        random.seed(seed)
        shown = view(Pair(image, mask), 0)
        seen = shown["mask"] != 255
        red = shown["image"][0]
        assert (red[~seen] == 0).all()  # padding
        agree = (red / 16).round()[seen] == shown["mask"][seen]
        assert agree.float().mean() > 0.7  # all but the borders between cells
        assert agree.any()


def test_one_class_fills_at_most_three_quarters_of_a_crop_where_that_can_be():
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, 40:] = 1
    image = Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8))
    view = replaced(VIEW, long_side=64, short_side=64, ratios=(1.0, 1.0))

    def worst(max_share):
        shares = []
        for seed in range(40):
            random.seed(seed)
            shown = replaced(view, max_share=max_share)(Pair(image, mask), 0)["mask"]
            shares.append(max((shown == 0).float().mean().item(), (shown == 1).float().mean().item()))
        return max(shares)

    assert worst(0.75) < 0.75
    assert worst(1.0) > 0.9


def test_distortion_changes_each_of_four_things_and_zero_changes_nothing():
    image = Image.fromarray(np.random.default_rng(0).integers(256, size=(8, 8, 3)).astype(np.uint8))
    assert all(photometric_distortion(image, 0.0).tobytes() == image.tobytes() for _ in range(5))
    random.seed(0)
    assert len({photometric_distortion(image, 1.0).tobytes() for _ in range(5)}) == 5
    grey = Image.new("RGB", (4, 4), (100, 100, 100))
    random.seed(1)
    values = [np.asarray(photometric_distortion(grey, 1.0)) for _ in range(200)]
    assert all((v.max(2) - v.min(2) <= 2).all() for v in values)  # saturation and hue leave grey grey
    middle = [int(v[0, 0, 0]) for v in values]
    assert min(middle) < 60
    assert max(middle) > 150  # (100 ± 32) × 0.5…1.5
    assert min(middle) >= 34 - 2
    assert max(middle) <= 198 + 2


def test_batches_repeat_whoever_makes_them(tmp_path):
    train = open_segmentation(str(make_segments(tmp_path))).train
    options = dict(batch_size=4, shuffle=True, drop_last=True, seed=3, steps_per_epoch=5)
    batches = {}
    for workers in (0, 2):
        loader = BatchLoader(train, VIEW, collate_crops, workers=workers, **options)
        batches[workers] = list(loader)
        loader.close()
    assert len(batches[0]) == 5
    for ours, theirs in zip(batches[0], batches[2], strict=True):
        assert ours["image"].shape == (4, 3, 32, 32)
        assert ours["mask"].dtype == torch.int64
        assert torch.equal(ours["image"], theirs["image"])
        assert torch.equal(ours["mask"], theirs["mask"])


def test_a_bad_pair_is_replaced_in_training_and_left_out_in_judging(tmp_path):
    data = make_segments(tmp_path)
    Image.new("RGB", (48, 40)).save(data / "masks" / "train" / "0.png")
    Image.new("L", (5, 5)).save(data / "masks" / "val" / "1.png")
    train, val, _ = open_segmentation(str(data))
    seen = list(BatchLoader(train, VIEW, collate_crops, batch_size=12, shuffle=True))
    assert [len(batch["index"]) for batch in seen] == [12]
    assert "an RGB mask" in dict(seen[0]["bad"])[str(data / "masks" / "train" / "0.png")]
    judged = list(BatchLoader(val, SegmentationEvalTransform(64, 32), collate_lists, batch_size=1, shuffle=False))
    assert [len(batch["image"]) for batch in judged] == [1, 0, 1, 1]
    assert judged[0]["image"][0].shape == (3, 32, 38)  # 48×40 made to fit 64×32
    assert judged[0]["mask"][0].shape == (40, 48)
    with pytest.raises(BadImage, match="5×5 pixels, its image 48×40"):
        val.load(1)


def test_a_split_can_be_named(tmp_path):
    root = make_segments(tmp_path, train=3, val=2)
    assert [len(open_segmentation_evaluation(str(root), split=split).images) for split in ("train", "val")] == [3, 2]
    assert open_segmentation_evaluation(str(root), split="train").part == "train"
    with pytest.raises(RMTError, match="--split test: .* has train, val only"):
        open_segmentation_evaluation(str(root), split="test")


@pytest.mark.parametrize(("end", "mask_end"), [("annot", ""), ("_labels", "_L")])
def test_folders_of_masks_beside_those_of_the_images(tmp_path, end, mask_end):
    root = make_segments(tmp_path, train=4, val=2)
    expected = open_segmentation(str(root))
    for split in ("train", "val"):
        (root / "masks" / split).rename(root / f"{split}{end}")
        (root / "images" / split).rename(root / split)
        for file in list((root / f"{split}{end}").iterdir()):
            file.rename(file.with_stem(file.stem + mask_end))
    (root / "masks").rmdir()
    (root / "images").rmdir()
    found = open_segmentation(str(root))
    assert (len(found.train), len(found.val)) == (4, 2) and found.skipped == expected.skipped
    assert [path.name for path in found.train.images] == [path.name for path in expected.train.images]
    assert all(file.parent.name == f"train{end}" for file in found.train.masks)
    assert set(np.unique(found.train.load(0).mask)) == {0, 1, 2}
