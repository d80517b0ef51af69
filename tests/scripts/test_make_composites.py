"""The composites' masks are exact, their splits share nothing, and both formats say the same."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.scripts_under_test import script as load_script
from PIL import Image, ImageDraw

script = load_script("make_composites")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """Folders like the two packages', with stamps and photographs of our own."""
    root = tmp_path_factory.mktemp("packages")
    draw = np.random.default_rng(0)
    for folder in script.CLASSES.values():
        (root / "stamps" / folder / "deeper").mkdir(parents=True)
        for number in range(6):
            stamp = Image.new("RGBA", (40, 30))
            ImageDraw.Draw(stamp).ellipse((3, 3, 36, 26), fill=tuple(int(v) for v in draw.integers(256, size=3)))
            stamp.save(root / "stamps" / folder / ("deeper" if number % 2 else ".") / f"{number}.png")
    money = root / "stamps" / script.CLASSES["money"]
    for copy in range(20):  # the same coin under many names
        shutil.copy(money / "0.png", money / f"copy-{copy}.png")
    shutil.copy(money / "0.png", root / "stamps" / script.CLASSES["fruit"] / "coin.png")
    outline = Image.new("RGBA", (40, 40))
    ImageDraw.Draw(outline).rectangle((0, 0, 39, 39), outline="black")
    outline.save(root / "stamps" / script.CLASSES["letter"] / "outline.png")
    Image.new("RGB", (40, 40)).save(root / "stamps" / script.CLASSES["letter"] / "opaque.png")
    (root / "photos").mkdir()
    for number in range(8):
        Image.new("RGB", (300, 200), (0, number * 20, 100)).save(root / "photos" / f"{number}.jpg")
    return root


def make(packages, output, *options):
    places = ["--stamps", packages / "stamps", "--backgrounds", packages / "photos"]
    words = [*places, "--output", output, "--train", 12, "--val", 8, "--size", 64, *options]
    script.main([str(word) for word in words])
    return output


def files(packages, split):
    def digests(folder, names):
        return {hashlib.sha256((packages / folder / name).read_bytes()).hexdigest() for name in names}

    stamps = [name for names in split["stamps"].values() for name in names]
    return set(stamps), set(split["photos"]), digests("stamps", stamps) | digests("photos", split["photos"])


def test_no_file_and_no_content_is_on_both_sides(packages, tmp_path):
    used = json.loads((make(packages, tmp_path / "a") / "sources.json").read_text())
    train, val = files(packages, used["train"]), files(packages, used["val"])
    for ours, theirs in zip(train, val, strict=True):
        assert ours
        assert theirs
        assert not ours & theirs
    for split in used.values():
        assert all(split["stamps"].values()), "a class without a stamp"
    stamps = train[0] | val[0]
    assert "symbols/alphabets/outline.png" not in stamps
    assert "symbols/alphabets/opaque.png" not in stamps


def test_pictures_come_from_their_own_split_alone(packages, monkeypatch):
    divided = script.split_sources(packages / "stamps", packages / "photos", seed=0)
    script._decoded_photo.cache_clear()
    script._decoded_stamp.cache_clear()
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda file: opened.append(Path(file)) or original(file))
    for number in range(20):
        script.compose(divided["val"], 64, np.random.default_rng(number))
    allowed = set(divided["val"].photos) | {file for names in divided["val"].stamps.values() for file in names}
    assert len(set(opened)) > 10
    assert set(opened) <= allowed


def test_masks_show_where_the_picture_differs_from_the_photograph(packages):
    divided = script.split_sources(packages / "stamps", packages / "photos", seed=0)
    for number in range(10):
        picture = script.compose(divided["train"], 64, np.random.default_rng(number))
        plain = np.asarray(picture.image)[0, 0]  # the photographs of this test are of one colour
        if picture.class_map()[0, 0] != 1:
            continue
        differs = (np.abs(np.asarray(picture.image).astype(int) - plain).max(2) > 60).astype(int)
        covered = sum(mask.astype(int) for _, mask in picture.stamps)
        assert covered.max() <= 1, "two stamps claim one pixel"
        assert (differs <= covered).mean() > 0.97  # all but half-transparent edges


def test_both_formats_say_the_same(packages, tmp_path):
    ade, coco = make(packages, tmp_path / "ade"), make(packages, tmp_path / "coco", "--format", "coco")
    assert len((ade / "classes.txt").read_text().splitlines()) == 13
    for split, folder in script.SPLITS.items():
        said = json.loads((coco / "annotations" / f"instances_{split}.json").read_text())
        for picture in said["images"]:
            name = picture["file_name"]
            assert (coco / split / name).read_bytes() == (ade / "images" / folder / name).read_bytes()
            values = np.ones((64, 64), dtype=np.uint8)
            for item in (item for item in said["annotations"] if item["image_id"] == picture["id"]):
                runs = item["segmentation"]["counts"]
                flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
                mask = flat.reshape((64, 64), order="F")
                assert mask.sum() == item["area"]
                x, y, width, height = item["bbox"]
                assert mask[y : y + height, x : x + width].sum() == item["area"]
                assert (
                    mask[y].any() and mask[:, x].any() and mask[y + height - 1].any() and mask[:, x + width - 1].any()
                )
                values[mask] = item["category_id"] + 1
            expected = np.asarray(Image.open(ade / "annotations" / folder / name.replace("jpg", "png")))
            np.testing.assert_array_equal(values, expected)


def test_a_seed_repeats_and_more_pictures_leave_the_first_ones(packages, tmp_path):
    first, again = make(packages, tmp_path / "a"), make(packages, tmp_path / "b", "--train", 13)
    other = make(packages, tmp_path / "c", "--seed", 1)
    names = [f"images/training/{number:05}.jpg" for number in range(12)]
    assert all((first / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert any((first / name).read_bytes() != (other / name).read_bytes() for name in names)


def test_missing_packages_and_a_used_folder_are_said(packages, tmp_path):
    with pytest.raises(SystemExit, match="too few files for letter"):
        script.main(["--output", str(tmp_path / "x"), "--stamps", str(tmp_path), "--backgrounds", str(tmp_path)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(SystemExit, match="not empty"):
        script.main(["--output", str(tmp_path / "full")])
