"""A classification recipe's images: which train, which choose `best`, which are the test, and how they are shown."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from rmt.data.image_loader import ImageLoader
from rmt.data.sets import ImageSet, SkipReport, hold_out
from rmt.data.splits import open_splits, resolve_stream
from rmt.data.token_labels.label_maps import LabelMaps
from rmt.data.token_labels.transforms import TokenLabelTransform
from rmt.data.transforms import eval_transform, train_transform
from rmt.recipes.recipe import ClassifyRecipe
from rmt.training.batch import refuse_large_batch
from rmt.training.distributed.processes import broadcast_from_main, world_size

_EVAL_BATCH = 2  # evaluation keeps no gradients: twice the training batch fits easily


@dataclass(frozen=True)
class ClassifyData:
    """The images of one run.

    `val` is what each epoch is judged on and `best` is chosen on: images held out of train, or, where the recipe
    holds none out, the test images themselves. `test` is read once more at the end.
    """

    recipe: ClassifyRecipe
    train: ImageSet
    val: ImageSet
    test: ImageSet
    skipped: SkipReport
    preprocessing: dict[str, Any]
    maps: LabelMaps | None = None  # of the training images, with `token_labels`
    processes: int = 1  # that share each update's images

    @classmethod
    def open(cls, recipe: ClassifyRecipe, normalisation: dict[str, Any]) -> "ClassifyData":
        """Opens the recipe's data. `normalisation` holds the network's mean and std. Raises RMTError for bad data."""
        stream = broadcast_from_main(lambda: resolve_stream(recipe.data, recipe.stream))
        recipe = replace(recipe, stream=stream)
        train, test, skipped = open_splits(
            recipe.data, holdout=recipe.holdout, seed=recipe.seed, stream=recipe.stream, buffer=recipe.stream_buffer
        )
        val = test
        if recipe.selection:
            amount = recipe.selection if recipe.selection < 1 else int(recipe.selection)
            train, val = hold_out(train, amount, recipe.seed)
        preprocessing = {
            "size": [recipe.image_size, recipe.image_size],
            "mean": list(normalisation["mean"]),
            "std": list(normalisation["std"]),
            "interpolation": "bicubic" if recipe.interpolation == "random" else recipe.interpolation,
            "crop_pct": recipe.crop_pct,
            "pad_to": recipe.pad_to,
        }
        maps = LabelMaps(recipe.token_labels, train) if recipe.token_labels else None
        data = cls(recipe, train, val, test, skipped, preprocessing, maps, world_size())
        refuse_large_batch(recipe, data.batch_size, len(train))
        return data

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    @property
    def chosen_on(self) -> str:
        """In words, what `best` is chosen on."""
        if self.val is self.test:
            return f"the {len(self.test):,} validation images themselves, which flatters it"
        return f"{len(self.val):,} images held out of train"

    @property
    def batch_size(self) -> int:
        """Of one device: the recipe's, or its share of a smaller set (even for Mixup, which mixes pairs)."""
        size = min(self.recipe.batch_size, len(self.train) // self.processes)
        return size - size % 2 if size > 1 and (self.recipe.mixup or self.recipe.cutmix) else size

    @property
    def batches_per_epoch(self) -> int:
        """Whole updates only: less than one effective batch is left out of an epoch, another part each time."""
        batches = len(self.train_loader(world_size=self.processes, workers=0))
        return batches - batches % self.recipe.accumulate

    def train_loader(self, rank: int = 0, world_size: int = 1, workers: int | None = None) -> ImageLoader:
        recipe = self.recipe
        transform = train_transform(
            recipe.image_size,
            mean=self.preprocessing["mean"],
            std=self.preprocessing["std"],
            interpolation=recipe.interpolation,
            scale=(recipe.min_crop, 1.0),
            hflip=recipe.flip,
            auto_augment=recipe.randaugment,
            erase_prob=recipe.random_erasing,
            pad_to=recipe.pad_to,
        )
        return ImageLoader(
            self.train,
            transform if self.maps is None else TokenLabelTransform(transform, self.maps),
            batch_size=self.batch_size,
            shuffle=True,
            drop_last=True,
            seed=recipe.seed,
            workers=recipe.workers if workers is None else workers,
            repeats=3 if recipe.repeated_augmentation else 1,
            rank=rank,
            world_size=world_size,
            pin_memory=torch.cuda.is_available(),
        )

    def val_loader(self, rank: int = 0, world_size: int = 1) -> ImageLoader:
        return self.eval_loader(self.val, rank, world_size)

    def eval_loader(self, images: ImageSet, rank: int = 0, world_size: int = 1) -> ImageLoader:
        return ImageLoader(
            images,
            eval_transform(**self.preprocessing),
            batch_size=self.recipe.batch_size * _EVAL_BATCH,
            shuffle=False,
            workers=self.recipe.workers,
            rank=rank,
            world_size=world_size,
            pin_memory=torch.cuda.is_available(),
        )


def class_weights(labels: np.ndarray, num_classes: int) -> torch.Tensor:
    """(num_classes,) float32: inverse to each class's frequency in labels (N,), and 1 for classes of average size."""
    counts = np.bincount(labels, minlength=num_classes).clip(min=1)
    return torch.tensor(len(labels) / (num_classes * counts), dtype=torch.float32)
