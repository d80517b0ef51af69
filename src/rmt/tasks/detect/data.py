"""The images of a detection run, for training and for evaluation, and their loaders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmt.data.detection.dataset import DetectionSet
from rmt.data.detection.layouts import Layout, coco_files, detection_layout, open_detection
from rmt.data.detection.transforms import (
    DetectionEvalTransform,
    DetectionTrainTransform,
    collate_lists,
    train_augmentation,
)
from rmt.data.loader import BatchLoader
from rmt.data.sets import SkipReport, listed, split_line
from rmt.errors import RMTError
from rmt.recipes import DetectRecipe
from rmt.recipes.recipe import check_unused
from rmt.tasks.epochs import PassesOverImages


@dataclass(frozen=True)
class DetectData(PassesOverImages):
    """The images of one run. Each epoch is evaluated on `val`, and `best` is chosen on it."""

    train: DetectionSet
    val: DetectionSet
    skipped: SkipReport
    layout: Layout

    @classmethod
    def open(cls, recipe: DetectRecipe) -> "DetectData":
        """Opens the recipe's data, with masks if it asks for them, or leaves that open and most objects have one.

        Raises RMTError for bad data.
        """
        layout = _layout(recipe)
        masks: bool | None = recipe.masks
        if recipe.is_open("masks"):
            masks = False if recipe.head == "retinanet" else None
        unused = check_unused(recipe, "where the data have a validation split", "holdout")
        if unused and "val" in layout.splits:
            raise RMTError(unused[0])
        splits = open_detection(
            layout,
            with_masks=masks,
            empty_images=recipe.empty_images,
            crowd_as_objects=recipe.crowd_as_objects,
            holdout=recipe.holdout,
            seed=recipe.seed,
        )
        return cls(*splits, layout)

    def describe(self) -> list[str]:
        """What the run learns from: layout, the objects and images of each class in each split, what was skipped."""
        lines = ["; ".join([f"{self.layout.name} data", *self.layout.choices, self.train.shapes])]
        divided = "val" not in self.layout.splits
        for split, images in {"train": self.train, "val (held out of train)" if divided else "val": self.val}.items():
            counts = images.class_counts()
            lines.append(split_line(split, len(images), counts, "objects per class"))
            lines.append(f"  images that show the class: {listed(images.class_images())}")
        if "test" in self.layout.splits:
            lines.append("test: not read by this run; rmt evaluate RUN --split test")
        return [*lines, *self.train.notes, *([] if divided else self.val.notes)]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def preprocessing(self, recipe: DetectRecipe) -> dict[str, Any]:
        """Short and long side in evaluation, and the data's category ids in the order of the classes."""
        return {"size": [recipe.short_side, recipe.long_side], "category_ids": self.train.category_ids}

    def _train_loader(self, recipe: DetectRecipe, **options: Any) -> BatchLoader:
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


def _layout(recipe: DetectRecipe) -> Layout:
    if recipe.data:
        return detection_layout(recipe.data, recipe.boxes)
    if not recipe.annotations:
        raise RMTError("--data is missing: a folder of images and annotations; or give --images and --annotations")
    val = None
    if recipe.val_annotations:
        val = (Path(recipe.val_images or recipe.images), Path(recipe.val_annotations))
    return coco_files((Path(recipe.images), Path(recipe.annotations)), val, recipe.boxes)


def eval_loader(images: DetectionSet, preprocessing: dict[str, Any], **options: Any) -> BatchLoader:
    """One image at a time, in order: padding to the size of another image would change the result."""
    transform = DetectionEvalTransform(*preprocessing["size"])
    return BatchLoader(images, transform, collate_lists, batch_size=1, shuffle=False, **options)
