"""Planning a classification run by time: networks and image sizes to choose from."""

import math
import statistics
from dataclasses import replace

import numpy as np

from rmt.data.images import BadImage
from rmt.data.sets import FEW_FROM_SCRATCH
from rmt.recipes import ClassifyRecipe
from rmt.tasks.classify import small_images
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.epochs import epochs_are_open, extend, length, set_epochs
from rmt.training.batch import world_size
from rmt.training.network import NETWORKS, relative_work
from rmt.training.task import Candidate, Planning

SIDES = (224, 192, 160, 128, 96, 64, 48, 32)
_SAMPLED = 8  # images whose size is looked at
_UPDATES = 20  # in a pass over the images, at least, where a GPU could take larger batches


def candidates(recipe: ClassifyRecipe, data: ClassifyData) -> list[Candidate[ClassifyRecipe]]:
    """See `Planning.candidates`: the larger network on images of at least half their side, then the smaller one.

    On a GPU small images are also enlarged by a factor of up to two.
    """
    native, on_cpu = typical_side(data), recipe.device == "cpu"
    sides = [recipe.image_size] if recipe.image_size else [s for s in SIDES if s <= 1.15 * native] or [SIDES[-1]]
    names: tuple[str, ...] = NETWORKS if recipe.is_open("model") else (recipe.model,)
    small = sides[0] <= small_images.LARGEST_SIDE and not recipe.weights
    if recipe.is_open("model") and small:
        names = (NETWORKS[0], small_images.NETWORKS[-1]) if on_cpu else small_images.NETWORKS
    found = []
    for name in names:
        tried = sides if name == names[-1] else [side for side in sides if 2 * side >= sides[0]]
        if name == "rmt_micro" and small and not (on_cpu or recipe.image_size):
            tried = sorted({min(2 * sides[0], small_images.LARGEST_SIDE), *tried}, reverse=True)
        for side in tried:
            chosen = replace(recipe.fill_open(model=name), image_size=side)
            by_muon = small_images.suit(recipe, name)
            chosen = chosen.fill_open(batch_size=_batch(recipe, len(data.train), by_muon=by_muon))
            if by_muon:
                chosen = chosen.fill_open(**small_images.settings(side, chosen.batch_size))
            images = wanted_images(len(data.train), name, from_scratch=not recipe.weights, by_muon=by_muon)
            found.append(Candidate(chosen, f"{name} at {side}²", relative_work(name) * side**2, images))
    return found


def _batch(recipe: ClassifyRecipe, images: int, *, by_muon: bool) -> int:
    """The batch size of one device for so many training images.

    A step of a GPU with few images takes as long as one with many, since the host launches the same kernels.
    """
    available = max(images // world_size(recipe), 1)
    if recipe.device == "cpu":
        return min(small_images.BATCH if by_muon else 32, available)
    most = 2 ** int(math.log2(max(available / _UPDATES, 1)))
    return min(max(most, 64), 512 if by_muon else 128, available)


def wanted_images(images: int, network: str, *, from_scratch: bool, by_muon: bool) -> int:
    """How many images, repeats included, a network should see to be worth its time.

    From scratch at least 30 passes and 48,000, from trained weights 10 and 16,000, but never more than 500,000; larger
    networks than rmt_pico need four times as many from scratch, those for small images by Muon a sixth of that.
    """
    passes, least = (30, 48_000) if from_scratch else (10, 16_000)
    if by_muon:
        passes = 5
    factor = 4 if from_scratch and network not in ("rmt_nano", "rmt_pico") else 1
    return factor * min(max(passes * images, least), 500_000)


def typical_side(data: ClassifyData) -> int:
    """The median of the short sides of a few training images; 224 when none of them can be read."""
    images = data.train
    spread = len(images) if data.stream == "no" else _SAMPLED  # where shards are fetched, those of one shard
    sides = []
    for index in np.linspace(0, min(spread, len(images)) - 1, min(_SAMPLED, len(images))).astype(int):
        try:
            sides.append(min(images.load(int(index)).size))
        except BadImage:
            continue
    return int(statistics.median(sides)) if sides else SIDES[0]


def final_images(recipe: ClassifyRecipe, data: ClassifyData, networks: int) -> int:
    """The test images, by the last weights, which are often the best ones."""
    return len(data.test) * networks


def advise_weights(data: ClassifyData) -> str:
    """See `Planning.advise_weights`: those in the package where the images of a class are few."""
    images = int(np.median(np.bincount(data.train.labels, minlength=len(data.classes))))
    if images < FEW_FROM_SCRATCH:
        return f"--weights rmt_micro to start from weights in the package, as the images per class are few ({images})"
    return "--weights FILE to start from trained weights"


PLANNING = Planning(
    fields=("model", "image_size", "epochs"),
    candidates=candidates,
    set_length=set_epochs,
    length=length,
    extend=extend,
    length_is_open=epochs_are_open,
    final_images=final_images,
    advise_weights=advise_weights,
    bfloat16=True,  # benchmarks/evidence/bfloat16.json
)
