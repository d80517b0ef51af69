"""The images of a segmentation run, for training and for evaluation, and their loaders."""

from dataclasses import dataclass
from typing import Any

from timm.models import get_pretrained_cfg

from rmt.data.loader import BatchLoader
from rmt.data.segmentation.dataset import SegmentationSet, open_segmentation
from rmt.data.segmentation.transforms import (
    SegmentationEvalTransform,
    SegmentationTrainTransform,
    collate_crops,
    collate_lists,
)
from rmt.data.sets import SkipReport
from rmt.errors import RMTError
from rmt.recipes import SegmentRecipe


@dataclass(frozen=True)
class SegmentData:
    """The images of one run; every evaluation is on `val`."""

    train: SegmentationSet
    val: SegmentationSet
    skipped: SkipReport

    @classmethod
    def open(cls, recipe: SegmentRecipe) -> "SegmentData":
        """Opens the recipe's data. Raises RMTError for bad data."""
        if not recipe.data:
            raise RMTError("--data is missing: a folder with images/ and annotations/ (or masks/), and a class list")
        return cls(
            *open_segmentation(
                recipe.data,
                recipe.classes,
                zero_is_ignored=recipe.zero_is_ignored,
                holdout=recipe.holdout,
                seed=recipe.seed,
            )
        )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes.names

    def preprocessing(self, recipe: SegmentRecipe) -> dict[str, Any]:
        network: Any = get_pretrained_cfg(recipe.model)
        return {
            "size": [recipe.crop_size, recipe.crop_size],
            "mean": list(network.mean),
            "std": list(network.std),
            "interpolation": "bilinear",
            "long_side": recipe.long_side,
            "short_side": recipe.short_side,
            "zero_is_ignored": self.train.classes.zero_is_ignored,
        }

    def batches_per_epoch(self, recipe: SegmentRecipe) -> int:
        return recipe.validate_every * recipe.accumulate

    def train_loader(self, recipe: SegmentRecipe, **options: Any) -> BatchLoader:
        preprocessing = self.preprocessing(recipe)
        view = SegmentationTrainTransform(
            crop=recipe.crop_size,
            long_side=recipe.long_side,
            short_side=recipe.short_side,
            ratios=(recipe.min_ratio, recipe.max_ratio),
            max_share=recipe.max_class_share,
            flip=recipe.flip,
            distortion=recipe.distortion,
            mean=preprocessing["mean"],
            std=preprocessing["std"],
            vertical_flip=recipe.vertical_flip,
            rotation=recipe.rotation,
            balanced=recipe.balanced_crops,
        )
        return BatchLoader(
            self.train,
            view,
            collate_crops,
            batch_size=recipe.batch_size,
            shuffle=True,
            drop_last=True,
            steps_per_epoch=self.batches_per_epoch(recipe),
            seed=recipe.seed,
            **{"workers": recipe.workers, **options},
        )

    def val_loader(self, recipe: SegmentRecipe, **options: Any) -> BatchLoader:
        options = {"workers": recipe.workers, **options}
        return whole_loader(self.val, recipe.long_side, recipe.short_side, **options)


def whole_loader(images: SegmentationSet, long_side: int, short_side: int, **options: Any) -> BatchLoader:
    """Whole images, one by one, each fitted to long_side × short_side, with masks of their own size."""
    return BatchLoader(
        images, SegmentationEvalTransform(long_side, short_side), collate_lists, batch_size=1, shuffle=False, **options
    )
