"""The images of a detection run, for training and for evaluation, and their loaders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt.data.detection.coco import CocoSet, find_split, open_coco_splits
from rmt.data.detection.transforms import (
    DetectionEvalTransform,
    DetectionTrainTransform,
    collate_lists,
    train_augmentation,
)
from rmt.data.loader import BatchLoader
from rmt.data.sets import SkipReport
from rmt.errors import RMTError
from rmt.recipes import DetectRecipe
from rmt.training.batch import world_size as processes_of


@dataclass(frozen=True)
class DetectData:
    """The images of one run. Each epoch is evaluated on `val`, and `best` is chosen on it."""

    train: CocoSet
    val: CocoSet
    skipped: SkipReport

    @classmethod
    def open(cls, recipe: DetectRecipe) -> "DetectData":
        """Opens the recipe's data. Raises RMTError for bad data."""
        if not recipe.data and not recipe.annotations:
            raise RMTError("--data is missing: a COCO folder; or give --images FOLDER --annotations FILE.json")
        if recipe.data:
            train, val = (find_split(Path(recipe.data), split) for split in ("train", "val"))
        else:
            train, val = (Path(recipe.images), Path(recipe.annotations)), None
            if recipe.val_annotations:
                val = (Path(recipe.val_images or recipe.images), Path(recipe.val_annotations))
        splits = open_coco_splits(
            train,
            val,
            with_masks=recipe.masks,
            empty_images=recipe.empty_images,
            holdout=recipe.holdout,
            seed=recipe.seed,
        )
        return cls(*splits)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def preprocessing(self, recipe: DetectRecipe) -> dict[str, Any]:
        """Short and long side in evaluation, and the data's category ids in the order of the classes."""
        return {"size": [recipe.short_side, recipe.long_side], "category_ids": self.train.category_ids}

    def batches_per_epoch(self, recipe: DetectRecipe) -> int:
        """Whole weight updates only: less than one effective batch is skipped in an epoch, another part each time."""
        batches = len(self.train_loader(recipe, world_size=processes_of(recipe), workers=0))
        return batches - batches % recipe.accumulate

    def train_loader(self, recipe: DetectRecipe, **options: Any) -> BatchLoader:
        """Shuffled and augmented; a batch holds either upright or wide images."""
        pipeline = train_augmentation(
            recipe.train_short_sides,
            recipe.long_side,
            flip=recipe.flip,
            random_crop=recipe.random_crop,
            vertical_flip=recipe.vertical_flip,
            rotation=recipe.rotation,
            scales=(recipe.min_scale, recipe.max_scale),
            distortion=recipe.distortion,
        )
        return BatchLoader(
            self.train,
            DetectionTrainTransform(self.train, pipeline),
            collate_lists,
            batch_size=recipe.batch_size,
            shuffle=True,
            drop_last=True,
            seed=recipe.seed,
            groups=self.train.groups,
            **{"workers": recipe.workers, **options},
        )

    def val_loader(self, recipe: DetectRecipe, **options: Any) -> BatchLoader:
        return eval_loader(self.val, self.preprocessing(recipe), **{"workers": recipe.workers, **options})


def eval_loader(images: CocoSet, preprocessing: dict[str, Any], **options: Any) -> BatchLoader:
    """One image at a time, in order: padding to the size of another image would change the result."""
    transform = DetectionEvalTransform(*preprocessing["size"])
    return BatchLoader(images, transform, collate_lists, batch_size=1, shuffle=False, **options)
