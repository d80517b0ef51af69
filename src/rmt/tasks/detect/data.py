"""A detection recipe's images: which train, which judge, and how they are shown."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rmt.data.detection.coco import CocoSet, find_split, open_coco_splits
from rmt.data.detection.transforms import (
    DetectionEvalTransform,
    DetectionTrainTransform,
    collate_lists,
    train_augmentation,
)
from rmt.data.loader import BatchLoader
from rmt.data.sets import SkipReport
from rmt.recipes.detect_recipe import DetectRecipe
from rmt.training.batch import refuse_large_batch
from rmt.training.distributed.processes import world_size


@dataclass(frozen=True)
class DetectData:
    """The images of one run. `val` is what each epoch is judged on, and `best` chosen on."""

    recipe: DetectRecipe
    train: CocoSet
    val: CocoSet
    skipped: SkipReport
    processes: int = 1  # that share each update's images

    @classmethod
    def open(cls, recipe: DetectRecipe) -> "DetectData":
        """Opens the recipe's data. Raises RMTError for data that have to be refused."""
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
        data = cls(recipe, *splits, world_size())
        refuse_large_batch(recipe, data.batch_size, len(data.train))
        return data

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Short and longest side in evaluation, and the data's category ids in the order of the classes."""
        size = [self.recipe.short_side, self.recipe.long_side]
        return {"size": size, "category_ids": self.train.category_ids}

    @property
    def batch_size(self) -> int:
        """Of one device: the recipe's, or its share of a smaller set."""
        return max(min(self.recipe.batch_size, len(self.train) // self.processes), 1)

    @property
    def batches_per_epoch(self) -> int:
        """Whole updates only: less than one effective batch is left out of an epoch, another part each time."""
        batches = len(self.train_loader(world_size=self.processes, workers=0))
        return batches - batches % self.recipe.accumulate

    def train_loader(self, rank: int = 0, world_size: int = 1, workers: int | None = None) -> BatchLoader:
        """Shuffled, upright and wide images apart, augmented."""
        recipe = self.recipe
        pipeline = train_augmentation(
            recipe.train_short_sides, recipe.long_side, flip=recipe.flip, random_crop=recipe.random_crop
        )
        return BatchLoader(
            self.train,
            DetectionTrainTransform(self.train, pipeline),
            collate_lists,
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            seed=recipe.seed,
            workers=recipe.workers if workers is None else workers,
            rank=rank,
            world_size=world_size,
            groups=self.train.groups,
            pin_memory=torch.cuda.is_available(),
        )

    def val_loader(self, rank: int = 0, world_size: int = 1) -> BatchLoader:
        return eval_loader(self.val, self.preprocessing, self.recipe.workers, rank, world_size)


def eval_loader(
    images: CocoSet, preprocessing: dict[str, Any], workers: int, rank: int = 0, world_size: int = 1
) -> BatchLoader:
    """One image at a time, in order: padding for a neighbour in the batch would change the answer."""
    return BatchLoader(
        images,
        DetectionEvalTransform(*preprocessing["size"]),
        collate_lists,
        batch_size=1,
        shuffle=False,
        workers=workers,
        rank=rank,
        world_size=world_size,
        pin_memory=torch.cuda.is_available(),
    )
