"""The length of a run in epochs, for planning it by time. An epoch is what lies between two evaluations."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from rmt.recipes import ClassifyRecipe, DetectRecipe
from rmt.training.batch import effective_batch, world_size
from rmt.training.module import TrainingData

MIN_EPOCHS = 4  # so that the curves show something, and `best` is a choice
_UNUSED = 0.02  # of the updates, at most, for the sake of epochs that are whole passes

RecipeT = TypeVar("RecipeT", ClassifyRecipe, DetectRecipe)


class PassesOverImages:
    """Images of a run whose epochs are a part of a pass over the training images, or several passes."""

    _train_loader: Callable[..., Any]

    def batches_per_epoch(self, recipe: ClassifyRecipe | DetectRecipe) -> int:
        """Whole weight updates only: less than one effective batch is skipped in a pass, another part each time."""
        batches = len(self._train_loader(recipe, world_size=world_size(recipe), workers=0))
        if recipe.epoch_repeats == 1:
            return batches - batches % recipe.accumulate
        return max(round(batches * recipe.epoch_repeats / recipe.accumulate), 1) * recipe.accumulate

    def train_loader(self, recipe: ClassifyRecipe | DetectRecipe, **options: Any) -> Any:
        """Shuffled and augmented. Where an epoch is not one pass over the images, the passes follow without a gap."""
        steps = 0 if recipe.epoch_repeats == 1 else self.batches_per_epoch(recipe)
        return self._train_loader(recipe, steps_per_epoch=steps, **options)


def set_epochs(recipe: RecipeT, data: TrainingData, updates: int, evaluations: int) -> RecipeT:
    """Returns the recipe with epochs that make at most so many updates, if it leaves them open, see `Planning`.

    There are at most `evaluations` epochs; an epoch is one pass over the images if that is often enough.
    """
    if recipe.epochs:
        return recipe.fill_open(epoch_repeats=1.0)
    updates_per_pass = max(len(data.train) // effective_batch(recipe), 1)
    passes = updates / updates_per_pass
    if not recipe.is_open("epoch_repeats"):
        return replace(recipe, epochs=max(int(passes / recipe.epoch_repeats), 1))
    epochs = min(evaluations, max(int(passes), MIN_EPOCHS), max(updates, 1))
    if epochs == int(passes) >= (1 - _UNUSED) * passes:
        return replace(recipe, epochs=epochs, epoch_repeats=1.0)
    epochs = even_parts(updates, epochs)
    repeats = max(updates // epochs, 1) / updates_per_pass
    return replace(recipe, epochs=epochs, epoch_repeats=float(f"{repeats:.5g}"))


def even_parts(updates: int, most: int) -> int:
    """The number of equal parts, from half of `most` to `most`, that leaves few updates over: a fiftieth, or the least.

    Of several such numbers the largest.
    """
    return min(range(most, (most - 1) // 2, -1), key=lambda parts: max(updates % parts, updates // 50))


def epochs_are_open(recipe: RecipeT) -> bool:
    """See `Planning.length_is_open`."""
    return not recipe.epochs


def extend(recipe: RecipeT, evaluations: int) -> RecipeT:
    """See `Planning.extend`."""
    return replace(recipe, epochs=evaluations)


def length(recipe: RecipeT, data: TrainingData) -> tuple[int, int]:
    """See `Planning.length`."""
    return recipe.epochs * (data.batches_per_epoch(recipe) // recipe.accumulate), recipe.epochs
