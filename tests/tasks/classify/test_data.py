"""Which images a classification run trains on, selects the best weights by, and reads at the end."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.pictures import make_folder

from rmt.errors import RMTError
from rmt.model import create_model
from rmt.recipes import IMAGENET, ClassifyRecipe
from rmt.tasks.classify.build import resolve
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.classify.module import ClassifyModule


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


def test_the_loader_is_chosen_when_the_recipe_is_resolved(photos):
    """Published ImageNet recipes leave it open; the images of both loaders are normalised alike."""
    recipe = replace(IMAGENET["imagenet-tiny"](), data=str(photos), devices=1, batch_size=4, image_size=32, workers=0)
    recipe = replace(
        recipe, repeated_augmentation=False, randaugment="", random_erasing=0.0, mixup=0.0, cutmix=0.0, ema_decay=0.0
    )
    data = ClassifyData.open(recipe)
    chosen = resolve(recipe, data)
    assert chosen.loader == "tensor"
    assert resolve(replace(recipe, pad_to=40), data).loader == "pillow"
    assert ClassifyRecipe(name="").loader == "pillow"  # so earlier runs go on as they began
    pillow, tensor = (
        next(iter(data.train_loader(replace(chosen, loader=loader))))["image"] for loader in ("pillow", "tensor")
    )
    assert (pillow.dtype, tensor.dtype) == (torch.float32, torch.uint8)
    module = ClassifyModule(create_model("rmt_test", num_classes=3), chosen, data)
    assert any("--loader pillow" in line for line in module.introduction())
    assert (module.normalize.batch(tensor) - pillow).abs().mean() < 0.01
    labels = torch.tensor([0, 1, 2, 0])
    module.eval()
    with torch.no_grad():
        assert module.loss(tensor, labels) == module.loss(module.normalize.batch(tensor), labels)


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
