"""The images of a segmentation run, for training and for evaluation, and their loaders."""

from dataclasses import dataclass
from typing import Any

from timm.models import get_pretrained_cfg

from rmt.data.loader import BatchLoader
from rmt.data.segmentation.class_use import ClassUse, check_class_list
from rmt.data.segmentation.dataset import SegmentationSet, open_segmentation
from rmt.data.segmentation.layouts import SegmentationLayout, segmentation_layout
from rmt.data.segmentation.transforms import (
    SegmentationEvalTransform,
    SegmentationTrainTransform,
    collate_crops,
    collate_lists,
)
from rmt.data.sets import SkipReport, split_line
from rmt.errors import RMTError
from rmt.recipes import SegmentRecipe

_VAL_MASKS = 200  # that are counted at the start of a run


@dataclass(frozen=True)
class SegmentData:
    """The images of one run; every evaluation is on `val`.

    Attributes:
        train, val, skipped: the pairs, and what was skipped.
        layout: how the files lie.
        use: what the training masks show, in a sample of them.
        notes: what does not fit in the masks, one line each.
    """

    train: SegmentationSet
    val: SegmentationSet
    skipped: SkipReport
    layout: SegmentationLayout
    use: ClassUse
    notes: tuple[str, ...] = ()

    @classmethod
    def open(cls, recipe: SegmentRecipe) -> "SegmentData":
        """Opens the recipe's data. Raises RMTError for bad data."""
        if not recipe.data:
            raise RMTError("--data is missing: a folder with images/ and annotations/ (or masks/), and a class list")
        options = dict(zero_is_ignored=recipe.zero_is_ignored)
        layout = segmentation_layout(recipe.data, recipe.classes, **options)
        splits = open_segmentation(recipe.data, recipe.classes, holdout=recipe.holdout, seed=recipe.seed, **options)
        use = ClassUse.of(splits.train, search=not splits.train.classes.zero_is_ignored)
        notes = check_class_list(splits.train, use, recipe.data)
        return cls(*splits, layout, use, tuple(notes))

    def describe(self) -> list[str]:
        """What the run learns from: the class list, the images that show each class in each split, what was skipped."""
        classes, divided = self.train.classes, "val" not in self.layout.splits
        given = ", ".join(f"{classes.names[label]} {value}" for label, value in classes.given.items())
        lines = [f"classes as in {self.layout.class_file}" + (f", with the mask values {given}" if given else "")]
        val = ClassUse.of(self.val, _VAL_MASKS, search=False)
        for split, use in {"train": self.use, "val (held out of train)" if divided else "val": val}.items():
            what = "images that show the class" + (f", of {use.looked:,}" if use.looked < use.total else "")
            lines.append(split_line(split, use.total, use.counts(classes.names), what))
        if "test" in self.layout.splits:
            lines.append("test: not read by this run; rmt evaluate RUN --split test")
        return [*lines, *self.notes]

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
