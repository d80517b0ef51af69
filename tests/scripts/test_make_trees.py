"""Tiles of photographs: what is cut, which boxes a tile gets, and that no photograph serves both sides."""

import io
import itertools
import json
import zipfile

import numpy as np
import pytest
from helpers.scripts_under_test import script
from PIL import Image

from rmt.data.detection.coco import find_split, open_coco

make_trees = script("make_trees")


def voc(boxes) -> bytes:
    """A VOC annotation of these boxes."""
    names = ("xmin", "ymin", "xmax", "ymax")
    corners = ["".join(f"<{name}>{value}</{name}>" for name, value in zip(names, box, strict=True)) for box in boxes]
    objects = [f"<object><name>Tree</name><bndbox>{text}</bndbox></object>" for text in corners]
    return f"<annotation>{''.join(objects)}</annotation>".encode()


@pytest.fixture
def wheel(tmp_path):
    """A stand-in for the package, its photographs small and each of one colour of its own."""
    file = tmp_path / "deepforest.whl"
    photos = [picture for sources in make_trees.SOURCES.values() for picture in sources.values()]
    with zipfile.ZipFile(file, "w") as package:
        for xml, picture in (pair for sources in make_trees.SOURCES.values() for pair in sources.items()):
            package.writestr(make_trees.FOLDER + xml, voc([(10, 10, 40, 50), (95, 20, 125, 60)]))
            pixels = io.BytesIO()
            Image.new("RGB", (180, 100), (40 + 50 * photos.index(picture), 90, 60)).save(pixels, "PNG")
            package.writestr(make_trees.FOLDER + picture, pixels.getvalue())
    return file


def test_no_photograph_stands_on_both_sides(wheel, tmp_path):
    make_trees.make(wheel, tmp_path / "trees", size=100, overlap=20)
    sources = json.loads((tmp_path / "trees/sources.json").read_text())
    assert not set(sources["train"]) & set(sources["val"]) and all(sources.values())
    assert sources == {split: sorted(pairs.values()) for split, pairs in make_trees.SOURCES.items()}
    colours = {}
    for split in ("train", "val"):
        files = list((tmp_path / "trees" / split).iterdir())
        assert {file.name.rsplit("-", 2)[0] + ".png" for file in files} == set(sources[split])
        colours[split] = {np.asarray(Image.open(file))[0, 0].tobytes() for file in files}
    assert not colours["train"] & colours["val"]


def test_the_real_photographs_of_the_two_sides_are_different_files():
    photos = [picture for sources in make_trees.SOURCES.values() for picture in sources.values()]
    assert len(set(photos)) == len(photos)
    stems = [picture.rsplit(".", 1)[0] for picture in photos]
    assert len(set(stems)) == len(stems)  # OSBS_029 exists as PNG and as TIFF


def test_a_tile_has_the_boxes_it_shows_enough_of(wheel, tmp_path):
    make_trees.make(wheel, tmp_path / "trees", size=100, overlap=20)
    images = open_coco(*find_split(tmp_path / "trees", "val"), with_masks=False)
    assert images.classes == ("tree",)
    by_place = {images.name(i).rsplit("-", 2)[-2:][0]: images.objects(i).boxes.tolist() for i in range(len(images))}
    # the second box, 95…125, is cut to a sixth by the tile 0…100 and lies whole in the tile 80…180
    assert by_place == {"0": [[10, 10, 40, 50]], "80": [[15, 20, 45, 60]]}


@pytest.mark.parametrize(
    ("length", "size", "overlap"), [(2299, 320, 80), (400, 320, 80), (320, 320, 80), (200, 320, 80)]
)
def test_tiles_cover_a_side_and_overlap(length, size, overlap):
    starts = make_trees.tile_starts(length, size, overlap)
    assert starts[0] == 0 and starts[-1] == max(length - size, 0)
    assert all(b - a <= size - overlap for a, b in itertools.pairwise(starts))


def test_a_used_folder_is_refused(wheel, tmp_path):
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees/something").touch()
    with pytest.raises(SystemExit, match="not empty"):
        make_trees.make(wheel, tmp_path / "trees", size=100, overlap=20)
