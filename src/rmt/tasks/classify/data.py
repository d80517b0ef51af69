"""Train, val and test images of a classification run, and their loaders."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from timm.models import get_pretrained_cfg

from rmt.data.image_loader import ImageLoader
from rmt.data.memory import CACHE_BYTES, CachedSet
from rmt.data.sets import ImageSet, SkipReport, Subset, hold_out, preview, split_line
from rmt.data.splits import (
    folders_in_every_class,
    open_splits,
    open_test,
    present_splits,
    resolve_stream,
    unused_beside,
)
from rmt.data.token_labels.label_maps import LabelMaps
from rmt.data.token_labels.transforms import TokenLabelTransform
from rmt.data.transforms import eval_transform, train_transform
from rmt.data.uint8_transforms import Uint8Transform
from rmt.errors import RMTError
from rmt.recipes import ClassifyRecipe
from rmt.tasks.epochs import PassesOverImages
from rmt.training.distributed.processes import broadcast_from_main

NO_LABEL_MAP = "no label map"
"""The reason in the report of skipped images for training images that are left out for lack of a label map."""
_EVAL_BATCH = 2  # evaluation keeps no gradients: twice the training batch fits easily


@dataclass(frozen=True)
class ClassifyData(PassesOverImages):
    """The images of one run.

    Attributes:
        train: the training images. They and the others are kept in memory after decoding, unless streamed.
        val: the images that each epoch is evaluated on and `best` is chosen on.
        test: the images that are read at the end: those of the data's test split, else the validation images.
        skipped: the files that were skipped.
        stream: whether shards are streamed.
        maps: the label maps of the training images, with `token_labels`.
        origins: what `val` and `test` are, where the data have no split of that name.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    skipped: SkipReport
    stream: Literal["yes", "no"]
    maps: LabelMaps | None = None
    origins: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def open(cls, recipe: ClassifyRecipe) -> "ClassifyData":
        """Opens the recipe's data. Raises RMTError for bad data."""
        if not recipe.data:
            raise RMTError("--data is missing: a folder with one folder of images per class, e.g. --data photos")
        stream = broadcast_from_main(lambda: resolve_stream(recipe.data, recipe.stream))
        train, val, test, skipped, origins = _open_images(recipe, stream)
        maps = LabelMaps(recipe.token_labels, train) if recipe.token_labels else None
        if maps is not None and not maps.available.all():
            train, skipped = _with_maps(train, maps, skipped)
            maps = LabelMaps(recipe.token_labels, train, verify=False)
        if stream == "no":
            limit, separate = CACHE_BYTES // max(1, recipe.workers), val is not test
            train, test = CachedSet(train, limit), CachedSet(test, limit)
            val = CachedSet(val, limit) if separate else test
        return cls(train, val, test, skipped, stream, maps, origins)

    def describe(self, recipe: ClassifyRecipe) -> list[str]:
        """What the run learns from: the images of each class in each split, and what is not used."""
        lines = []
        for split, images in {"train": self.train, "val": self.val, "test": self.test}.items():
            if split == "test" and self.test is self.val:
                continue
            origin = f" ({self.origins[split]})" if split in self.origins else ""
            counts = np.bincount(images.labels, minlength=len(self.classes)).tolist()
            lines.append(split_line(split + origin, len(images), dict(zip(self.classes, counts, strict=True))))
        if unused := unused_beside(recipe.data):
            lines.append(f"not used, since beside the splits and in none: {preview(unused)}")
        if inside := folders_in_every_class(recipe.data):
            lines.append(
                f"warning: {preview(self.classes)} are taken as the classes, and each has the folders "
                f"{preview(inside)}; if those are the classes, put them directly into one folder"
            )
        return lines

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def preprocessing(self, recipe: ClassifyRecipe) -> dict[str, Any]:
        network: Any = get_pretrained_cfg(recipe.model)
        return {
            "size": [recipe.image_size, recipe.image_size],
            "mean": list(network.mean),
            "std": list(network.std),
            "interpolation": "bicubic" if recipe.interpolation == "random" else recipe.interpolation,
            "crop_pct": recipe.crop_pct,
            "pad_to": recipe.pad_to,
        }

    def _train_loader(self, recipe: ClassifyRecipe, **options: Any) -> ImageLoader:
        preprocessing = self.preprocessing(recipe)
        transform = train_transform(
            recipe.image_size,
            mean=preprocessing["mean"],
            std=preprocessing["std"],
            interpolation=recipe.interpolation,
            scale=(recipe.min_crop, 1.0),
            hflip=recipe.flip,
            auto_augment=recipe.randaugment,
            erase_prob=recipe.random_erasing,
            pad_to=recipe.pad_to,
            crop_padding=recipe.crop_padding,
        )
        chosen: Any = transform
        if self.maps is not None:
            chosen = TokenLabelTransform(transform, self.maps, swap_axes=recipe.swap_map_axes)
        elif recipe.loader == "tensor":
            chosen = Uint8Transform(transform)
        return ImageLoader(
            self.train,
            chosen,
            batch_size=recipe.batch_size,
            shuffle=True,
            drop_last=True,
            seed=recipe.seed,
            repeats=3 if recipe.repeated_augmentation else 1,
            balance=np.asarray(self.train.labels) if recipe.balanced_sampling else None,
            **{"workers": recipe.workers, **options},
        )

    def val_loader(self, recipe: ClassifyRecipe, **options: Any) -> ImageLoader:
        return self.eval_loader(recipe, self.val, **options)

    def eval_loader(self, recipe: ClassifyRecipe, images: ImageSet, **options: Any) -> ImageLoader:
        """`images`, each once and in order, preprocessed as for evaluation."""
        return ImageLoader(
            images,
            eval_transform(**self.preprocessing(recipe)),
            batch_size=recipe.batch_size * _EVAL_BATCH,
            shuffle=False,
            **{"workers": recipe.workers, **options},
        )


def _with_maps(train: ImageSet, maps: LabelMaps, skipped: SkipReport) -> tuple[ImageSet, SkipReport]:
    """The training images that have a label map, and the report with the number of others."""
    count = int((~maps.available).sum())
    if count == len(train):
        raise RMTError(f"{maps.folder}: no training image of {count:,} has a label map there")
    report = {**skipped, "train": {**skipped.get("train", {}), NO_LABEL_MAP: count}}
    return Subset(train, np.flatnonzero(maps.available)), report


def _open_images(
    recipe: ClassifyRecipe, stream: str
) -> tuple[ImageSet, ImageSet, ImageSet, SkipReport, Mapping[str, str]]:
    """The images for training, for selecting the best weights, and for the end of the run; what was skipped; and where
    images are from that are not of a split of that name."""
    data, present = recipe.data, present_splits(recipe.data)
    streaming: dict[str, Any] = {"stream": stream, "buffer": recipe.stream_buffer}
    amount = recipe.selection if recipe.selection < 1 else int(recipe.selection)
    held_out = {"val": "held out of train"}
    if "test" not in present:
        train, val, skipped = open_splits(data, holdout=recipe.holdout, seed=recipe.seed, **streaming)
        if not amount:
            return train, val, val, skipped, {} if "val" in present else held_out
        chosen_on = held_out | {"test": "the val split" if "val" in present else "held out of train"}
        return (*hold_out(train, amount, recipe.seed), val, skipped, chosen_on)
    if amount and "val" in present:
        raise RMTError(f"--selection must be 0, since {data} has images to validate and images to test")
    train, val, skipped = open_splits(data, holdout=amount or recipe.holdout, seed=recipe.seed, **streaming)
    test, skipped_test = open_test(data, train, **streaming)
    return train, val, test, {**skipped, "test": skipped_test}, {} if "val" in present else held_out


def class_weights(labels: np.ndarray, num_classes: int) -> torch.Tensor:
    """(num_classes,) float32: inverse to each class's frequency in labels (N,), and 1 for classes of average size."""
    counts = np.bincount(labels, minlength=num_classes).clip(min=1)
    return torch.tensor(len(labels) / (num_classes * counts), dtype=torch.float32)
