"""Planning a detection run by time: networks and image sizes to choose from."""

import math

from rmt.recipes import DetectRecipe
from rmt.tasks.detect.build import fill_defaults
from rmt.tasks.detect.data import DetectData
from rmt.tasks.detect.defaults import ObjectStatistics
from rmt.tasks.epochs import epochs_are_open, extend, length, set_epochs
from rmt.training.batch import world_size
from rmt.training.network import NETWORKS, relative_work
from rmt.training.task import Candidate, Planning

SIXTHS = (6, 5, 4, 3)  # of the short side that suits the objects; larger networks take the first one only
SMALLEST_PX = 10  # side of the smallest class's objects, for whose sake images are not reduced further


def candidates(recipe: DetectRecipe, data: DetectData) -> list[Candidate[DetectRecipe]]:
    """See `Planning.candidates`: the larger network, then the smaller one, on images of several sizes.

    Images are not reduced so far that the smallest class's objects have fewer than 10 pixels.
    """
    recipe = recipe.fill_open(batch_size=max(min(4, len(data.train) // world_size(recipe)), 1))
    masks = f", {data.train.shapes}" if recipe.is_open("masks") else ""
    smallest = ObjectStatistics.of(data.train).small
    found = []
    names = NETWORKS if recipe.is_open("model") else (recipe.model,)
    for name in names:
        best = fill_defaults(recipe.fill_open(model=name), data)
        sixths = SIXTHS if name == names[-1] and recipe.is_open("short_side") else SIXTHS[:1]
        shorts = [32 * math.ceil(best.short_side * part / (6 * 32)) for part in sixths]
        kept = {short for short in shorts if short == shorts[0] or short * smallest >= SMALLEST_PX}
        reason = f"on smaller images the smallest class's objects would have fewer than {SMALLEST_PX} px"
        for short in sorted(kept, reverse=True):
            chosen = fill_defaults(recipe.fill_open(model=name), data, short)
            label = f"{name}, short side {chosen.short_side} px, pyramid of {chosen.fpn_channels} channels{masks}"
            wanted = wanted_images(len(data.train), network=name, from_scratch=not recipe.weights)
            work = relative_work(name) * chosen.short_side**2
            last = reason if short == min(kept) > min(shorts) else ""
            found.append(Candidate(chosen, label, work, wanted, last))
    return found


def wanted_images(images: int, *, network: str, from_scratch: bool) -> int:
    """How many images, repeats included, a detector should see: 8 passes and 1,600, four times as many from scratch
    with a larger network than rmt_pico; never more than 100,000."""
    factor = 4 if from_scratch and network != "rmt_pico" else 1
    return factor * min(max(8 * images, 1_600), 100_000)


def final_images(recipe: DetectRecipe, data: DetectData, networks: int) -> int:
    """The validation images, by the best weights."""
    return len(data.val)


PLANNING = Planning(
    fields=("model", "short_side", "fpn_channels", "box_width", "rois_per_image", "proposals", "epochs"),
    candidates=candidates,
    set_length=set_epochs,
    length=length,
    extend=extend,
    length_is_open=epochs_are_open,
    final_images=final_images,
)
