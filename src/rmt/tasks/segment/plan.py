"""Planning a segmentation run by time: networks, image and crop sizes to choose from."""

from dataclasses import replace

from rmt.recipes import SegmentRecipe
from rmt.tasks.epochs import even_parts
from rmt.tasks.segment.build import evaluation_interval, fill_defaults
from rmt.tasks.segment.data import SegmentData
from rmt.training.network import NETWORKS, relative_work
from rmt.training.task import Candidate, Planning

SCALES = (1.0, 0.75, 0.5)  # of the image size that suits the network; larger networks take the first one only
WANTED = 800  # iterations
MOST_EVALUATIONS = 10


def candidates(recipe: SegmentRecipe, data: SegmentData) -> list[Candidate[SegmentRecipe]]:
    """See `Planning.candidates`: the larger network, then the smaller one, on images of several sizes."""
    found: list[Candidate[SegmentRecipe]] = []
    names = NETWORKS if recipe.is_open("model") else (recipe.model,)
    for name in names:
        for scale in SCALES if name == names[-1] else SCALES[:1]:
            chosen = fill_defaults(recipe.fill_open(model=name), data, scale)
            if found and found[-1].recipe == chosen:  # the size is given
                continue
            sides = f"{chosen.short_side}×{chosen.long_side}" if chosen.short_side else "their own size"
            label = f"{name}, crops of {chosen.crop_size}² from images of at most {sides}"
            wanted = WANTED * chosen.batch_size * (4 if name != "rmt_pico" and not recipe.weights else 1)
            found.append(Candidate(chosen, label, relative_work(name) * chosen.crop_size**2, wanted))
    return found


def set_length(recipe: SegmentRecipe, data: SegmentData, updates: int, evaluations: int) -> SegmentRecipe:
    """See `Planning.set_length`."""
    if recipe.is_open("iterations") and recipe.is_open("validate_every"):
        evaluations = even_parts(updates, min(evaluations, MOST_EVALUATIONS, updates))
        every = updates // evaluations
        return replace(recipe, iterations=every * evaluations, validate_every=every)
    if recipe.is_open("iterations"):
        return replace(recipe, iterations=max(updates // recipe.validate_every, 1) * recipe.validate_every)
    return recipe.fill_open(validate_every=evaluation_interval(recipe.iterations, min(evaluations, MOST_EVALUATIONS)))


def length(recipe: SegmentRecipe, data: SegmentData) -> tuple[int, int]:
    """See `Planning.length`."""
    return recipe.iterations, recipe.iterations // recipe.validate_every


def extend(recipe: SegmentRecipe, evaluations: int) -> SegmentRecipe:
    """See `Planning.extend`."""
    return replace(recipe, iterations=evaluations * recipe.validate_every)


def length_is_open(recipe: SegmentRecipe) -> bool:
    """See `Planning.length_is_open`."""
    return recipe.is_open("iterations")


def final_images(recipe: SegmentRecipe, data: SegmentData, networks: int) -> int:
    """The validation images, by the last weights, often the best ones; with `choose_inference` once more."""
    return len(data.val) * (networks + recipe.choose_inference)


PLANNING = Planning(
    fields=("model", "crop_size", "short_side", "head_width", "iterations"),
    candidates=candidates,
    set_length=set_length,
    length=length,
    extend=extend,
    length_is_open=length_is_open,
    final_images=final_images,
)
