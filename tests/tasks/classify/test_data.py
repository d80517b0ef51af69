"""Which images a classification run trains on, selects the best weights by, and reads at the end."""

from pathlib import Path

import pytest
from helpers.pictures import make_folder

from rmt.errors import RMTError
from rmt.recipes import ClassifyRecipe
from rmt.tasks.classify.data import ClassifyData


def opened(data: Path, **options) -> tuple[ClassifyData, tuple[int, int, int]]:
    found = ClassifyData.open(ClassifyRecipe(name="data", data=str(data), **options))
    return found, (len(found.train), len(found.val), len(found.test))


@pytest.fixture
def photos(tmp_path) -> Path:
    make_folder(tmp_path / "photos")
    return tmp_path / "photos"


def test_without_a_test_split_the_validation_images_are_read_at_the_end(photos):
    whole, (train, val, _) = opened(photos)
    assert whole.val is whole.test
    _, selected = opened(photos, selection=4)
    assert selected == (train - 4, 4, val)


def test_a_test_split_is_for_the_end_only(photos):
    _, (train, val, _) = opened(photos)
    (photos / "val").rename(photos / "test")
    divided, (rest, held, test) = opened(photos, holdout=0.25)
    assert divided.val is not divided.test
    assert (rest + held, held, test) == (train, round(train / 4), val)
    assert set(divided.skipped) == {"train and val", "test"}
    assert opened(photos, selection=2)[1] == (train - 2, 2, test)


def test_three_splits_are_used_as_they_are(photos):
    _, (train, val, _) = opened(photos)
    (photos / "train" / "red").joinpath("0.png").read_bytes()
    for name in ("red", "green", "blue"):
        if (photos / "val" / name).is_dir():
            (photos / "test" / name).mkdir(parents=True)
            (photos / "test" / name / "0.png").write_bytes((photos / "val" / name / "0.png").read_bytes())
    three, counts = opened(photos)
    assert counts == (train, val, len(three.classes))
    with pytest.raises(RMTError, match="--selection must be 0, since .* has images to validate and images to test"):
        opened(photos, selection=2)
