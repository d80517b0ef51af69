"""A segmentation recipe's images: which train, which judge, and how they are shown."""

from dataclasses import dataclass
from typing import Any

import torch

from rmt.data.loader import BatchLoader
from rmt.data.segmentation.dataset import SegmentationSet, open_segmentation
from rmt.data.segmentation.transforms import (
    SegmentationEvalTransform,
    SegmentationTrainTransform,
    collate_crops,
    collate_lists,
)
from rmt.data.sets import SkipReport
from rmt.recipes.segment_recipe import SegmentRecipe
from rmt.training.batch import refuse_large_batch


@dataclass(frozen=True)
class SegmentData:
    """The images of one run; `val` is what every evaluation and the last one score."""

    recipe: SegmentRecipe
    train: SegmentationSet
    val: SegmentationSet
    skipped: SkipReport
    preprocessing: dict[str, Any]

    @classmethod
    def open(cls, recipe: SegmentRecipe, normalisation: dict[str, Any]) -> "SegmentData":
        """Opens the recipe's data. `normalisation` holds the network's mean and std. Raises RMTError for bad data."""
        train, val, skipped = open_segmentation(
            recipe.data,
            recipe.classes,
            zero_is_ignored=recipe.zero_is_ignored,
            holdout=recipe.holdout,
            seed=recipe.seed,
        )
        refuse_large_batch(recipe, recipe.batch_size, len(train))
        preprocessing = {
            "size": [recipe.crop_size, recipe.crop_size],
            "mean": list(normalisation["mean"]),
            "std": list(normalisation["std"]),
            "interpolation": "bilinear",
            "long_side": recipe.long_side,
            "short_side": recipe.short_side,
            "zero_is_ignored": train.classes.zero_is_ignored,
        }
        return cls(recipe, train, val, skipped, preprocessing)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes.names

    @property
    def batches_per_epoch(self) -> int:
        return self.recipe.validate_every * self.recipe.accumulate

    def train_loader(self, rank: int = 0, world_size: int = 1) -> BatchLoader:
        recipe = self.recipe
        view = SegmentationTrainTransform(
            crop=recipe.crop_size,
            long_side=recipe.long_side,
            short_side=recipe.short_side,
            ratios=(recipe.min_ratio, recipe.max_ratio),
            max_share=recipe.max_class_share,
            flip=recipe.flip,
            distortion=recipe.distortion,
            mean=self.preprocessing["mean"],
            std=self.preprocessing["std"],
        )
        return BatchLoader(
            self.train,
            view,
            collate_crops,
            batch_size=recipe.batch_size,
            shuffle=True,
            drop_last=True,
            steps_per_epoch=self.batches_per_epoch,
            seed=recipe.seed,
            workers=recipe.workers,
            rank=rank,
            world_size=world_size,
            pin_memory=torch.cuda.is_available(),
        )

    def val_loader(self, rank: int = 0, world_size: int = 1) -> BatchLoader:
        recipe = self.recipe
        return whole_loader(
            self.val, recipe.long_side, recipe.short_side, workers=recipe.workers, rank=rank, world_size=world_size
        )


def whole_loader(images: SegmentationSet, long_side: int, short_side: int, **options: Any) -> BatchLoader:
    """Whole images, one by one, each fitted to long_side × short_side, with masks of their own size."""
    return BatchLoader(
        images, SegmentationEvalTransform(long_side, short_side), collate_lists, batch_size=1, shuffle=False, **options
    )
