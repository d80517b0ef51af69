"""Label maps on disk: what was written comes back, and what does not belong together is refused."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from helpers.image_sets import MemorySet

from rmt.data.sets import Subset
from rmt.data.token_labels.label_maps import (
    INDEX,
    UNKNOWN_SIZE,
    LabelMaps,
    LabelMapSpec,
    fingerprint,
    incomplete_files,
    read_map_file,
    root_of,
    write_map_file,
)
from rmt.errors import RMTError


def about(images: MemorySet, **changes) -> LabelMapSpec:
    values = dict(
        teacher="none",
        weights="none",
        image_size=(32, 32),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        interpolation="bicubic",
        num_classes=3,
        grid=(2, 4),
        top_k=2,
        images=len(images),
        fingerprint=fingerprint(images),
        shard_images=4,
    )
    return LabelMapSpec(**values | changes)


@pytest.fixture
def stored(tmp_path):
    """The maps of 10 images in 3 shards: image i has the score i / 16 everywhere, and 0 instead of a size if i is 3."""
    images = MemorySet(10)
    description = about(images)
    (tmp_path / INDEX).write_text(description.as_json())
    for number in range(description.files):
        arrays = description.empty(number)
        for row, image in enumerate(description.rows(number)):
            arrays["scores"][row] = image / 16
            arrays["classes"][row] = [0, 2]
            arrays["sizes"][row] = (0, 0) if image == 3 else (4, 4)
        write_map_file(tmp_path / description.file_name(number), arrays)
    return tmp_path, images, description


def test_a_map_comes_back_for_each_image(stored):
    folder, images, description = stored
    assert LabelMapSpec.read(folder) == description and description.files == 3
    maps = LabelMaps(folder, images)
    for image in (0, 4, 9):
        scores, classes = maps.load(image, (4, 4))
        assert scores.dtype == np.float16 and scores.shape == classes.shape == (2, 4, 2)
        assert (scores == image / 16).all() and (classes == [0, 2]).all()


def test_maps_follow_parts_of_their_set_and_travel_to_other_processes(stored):
    folder, images, _ = stored
    part = Subset(Subset(images, [9, 8, 2, 1]), [3, 0])
    assert root_of(part)[0] is images and root_of(part)[1].tolist() == [1, 9]
    maps = LabelMaps(folder, part)
    assert len(maps) == 2
    assert maps.load(0, (4, 4))[0][0, 0, 0] == 1 / 16
    assert pickle.loads(pickle.dumps(maps)).load(1, (4, 4))[0][0, 0, 0] == 9 / 16


def test_the_size_on_disk_is_as_stated(stored):
    folder, _, description = stored
    assert description.bytes_per_image == 2 * 4 * 2 * (2 + 2) + 8
    data = [(folder / description.file_name(n)).stat().st_size - len(description.rows(n)) * 72 for n in range(3)]
    assert all(0 < extra < 500 for extra in data)  # the header


def test_many_classes_need_wider_numbers():
    images = MemorySet(3)
    assert about(images, num_classes=32_767).empty(0)["classes"].dtype == np.int16
    assert about(images, num_classes=32_768).empty(0)["classes"].dtype == np.int32


def test_other_images_are_refused(stored):
    folder, images, _ = stored
    with pytest.raises(RMTError, match="made from other images or another order"):
        LabelMaps(folder, MemorySet(11))
    other = MemorySet(10)
    other.labels = other.labels[::-1].copy()
    with pytest.raises(RMTError, match="made from other images or another order"):
        LabelMaps(folder, other)
    with pytest.raises(RMTError, match=r"image 5: 8×4 pixels, but its label map was made from 4×4"):
        LabelMaps(folder, images).load(5, (8, 4))
    with pytest.raises(RMTError, match=r"red\.png: it could not be read when the label maps were made"):
        LabelMaps(folder, images).load(3, (4, 4), "red.png")


def test_another_number_of_classes_is_refused(stored):
    folder, images, description = stored
    (folder / INDEX).write_text(replace(description, num_classes=1000).as_json())
    with pytest.raises(RMTError, match="the teacher knew 1000 classes, the images have 3"):
        LabelMaps(folder, images)


@pytest.mark.parametrize("damage", ["cut", "altered", "missing", "other"])
def test_a_damaged_shard_is_named(stored, damage):
    folder, images, description = stored
    path = folder / description.file_name(1)
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-5])
    elif damage == "altered":
        path.write_bytes(content[:-40] + bytes([content[-40] ^ 1]) + content[-39:])
    elif damage == "missing":
        path.unlink()
    else:
        path.write_bytes((folder / description.file_name(2)).read_bytes())
    with pytest.raises(RMTError, match=path.name) as error:
        LabelMaps(folder, images)
    assert "\n" not in str(error.value)
    with pytest.raises(RMTError, match=path.name):
        read_map_file(path, description, 1)
    missing, complaints = incomplete_files(folder, description, range(3))
    assert missing == [1]
    assert len(complaints) == (damage != "missing")


def test_a_folder_without_maps_says_how_to_make_them(tmp_path):
    with pytest.raises(RMTError, match="rmt token-labels"):
        LabelMaps(tmp_path, MemorySet(3))
    for text in ("not json", "[]", json.dumps({"teacher": "x"}), about(MemorySet(3), format=3).as_json()):
        (tmp_path / INDEX).write_text(text)
        with pytest.raises(RMTError, match=INDEX):
            LabelMaps(tmp_path, MemorySet(3))
    (tmp_path / INDEX).unlink()
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "1.pt").touch()
    with pytest.raises(RMTError, match="`--import` packs published maps"):
        LabelMaps(tmp_path, MemorySet(3))


def test_probabilities_of_earlier_versions_are_refused(stored):
    folder, images, description = stored
    (folder / INDEX).write_text(replace(description, format=1).as_json())
    with pytest.raises(RMTError, match="contain probabilities; training needs logits: make the maps again") as error:
        LabelMaps(folder, images)
    assert str(folder / INDEX) in str(error.value)


@pytest.mark.parametrize(
    "numbers",
    [
        dict(grid=(10**6, 10**6)),
        dict(grid=(7, 7, 7)),
        dict(grid=(0, 4)),
        dict(top_k=4),
        dict(shard_images=0),
        dict(images=2**40),
        dict(num_classes=3.0),
    ],
    ids=str,
)
def test_impossible_numbers_are_refused(stored, numbers):
    folder, images, description = stored
    (folder / INDEX).write_text(replace(description, **numbers).as_json())
    with pytest.raises(RMTError, match="its numbers cannot be those of label maps"):
        LabelMaps(folder, images)


@pytest.mark.parametrize(("name", "value"), [("classes", 3), ("classes", -1), ("scores", np.inf), ("scores", np.nan)])
def test_impossible_values_are_refused(stored, name, value):
    folder, images, description = stored
    path = folder / description.file_name(1)
    arrays = read_map_file(path, description, 1)
    arrays[name] = arrays[name].copy()
    arrays[name][0, 0, 0, 0] = value
    write_map_file(path, arrays)
    with pytest.raises(RMTError, match=f"{path.name}: it has impossible classes or scores"):
        LabelMaps(folder, images)


def test_images_without_a_map_and_of_unknown_size(stored):
    folder, images, description = stored
    assert LabelMaps(folder, Subset(images, [3, 4])).available.tolist() == [False, True]
    path = folder / description.file_name(0)
    arrays = {name: array.copy() for name, array in read_map_file(path, description, 0).items()}
    arrays["sizes"][1:3] = UNKNOWN_SIZE
    write_map_file(path, arrays)
    maps = LabelMaps(folder, images)
    assert maps.available.tolist() == [number != 3 for number in range(10)]
    assert (maps.load(1, (123, 45))[0] == 1 / 16).all()  # any size
