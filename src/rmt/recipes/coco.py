"""The recipes of the paper's detectors on COCO (Sec. 4.2, Tables 2 to 4, and 6)."""

from dataclasses import replace
from textwrap import fill

from rmt.recipes.detect import DetectRecipe, Head
from rmt.recipes.published import PUBLISHED
from rmt.recipes.recipe import named

_TITLES = {
    "retinanet": "RetinaNet",
    "mask_rcnn": "Mask R-CNN",
    "cascade_mask_rcnn": "Cascade Mask R-CNN",
}

#: The rows of the tables, and Mask R-CNN 3x with RMT-L, of which the configuration alone is released.
_ROWS: list[tuple[Head, str, str]] = [
    *(("retinanet", size, "1x") for size in ("tiny", "small", "base", "large")),
    *(("mask_rcnn", size, "1x") for size in ("tiny", "small", "base", "large", "swin-tiny", "swin-small")),
    *(("mask_rcnn", size, "3x") for size in ("small", "base", "large")),
    *(("cascade_mask_rcnn", size, "3x") for size in ("small", "base")),
]


def _recipe(head: Head, size: str, schedule: str) -> DetectRecipe:
    """1x: 12 epochs, the rate divided by 10 after 8 and 11, short side 800, long side at most 1333.

    3x: 36 epochs, the rate divided by 10 after 27 and 33, short sides 480 to 800, half of the images cropped.
    """
    recipe = DetectRecipe(
        name=f"coco-{head.replace('_', '-')}-{size}-{schedule}",
        head=head,
        model=f"rmt_{size.replace('-', '_')}",
        drop_path="auto",
        effective_batch=16,
        devices="auto",
        weight_decay=0.05,
        sync_batchnorm=True,
        workers=8,
    )
    if head == "retinanet":
        recipe = replace(recipe, masks=False, anchor_scale=4.0, weight_decay=1e-4, decay_norms=True)
    if head == "cascade_mask_rcnn":
        recipe = replace(recipe, proposals=2000)
    if schedule == "3x":
        sides = tuple(range(480, 801, 32))
        recipe = replace(recipe, epochs=36, lr_steps=(0.75, 0.917), train_short_sides=sides, random_crop=True)
    return recipe


def _row(head: Head, size: str, schedule: str):
    recipe, long = _recipe(head, size, schedule), schedule == "3x"
    released = "2e-4" if size == "large" or (size == "base" and long) else "4e-4"
    published = PUBLISHED.get(recipe.name)
    cost = (
        f"Cost: not measured here; {recipe.epochs} epochs of the 117,266 images of train2017 that show objects, at a "
        f"short side of {'480 to 800' if long else '800'} px; 16 images per update: 2 per GPU on "
        "eight GPUs; fewer GPUs accumulate gradients."
    )
    if published and published.parameters:
        cost += f" The paper counts {published.describe_cost()}."
    figures = f"{published.describe_scores()} ({published.table})" if published else ""
    accuracy = (
        f"Accuracy: none measured here. Published: {figures or 'nothing, though the configuration is released'}. The "
        f"rate falls after epochs {' and '.join(map(str, recipe.step_epochs()))}. AdamW at 1e-4 for 16 images is the "
        "paper's"
    )
    if size.startswith("swin"):
        accuracy += "; it has none for this network: Swin's design with MaSA, as in Table 6."
    else:
        accuracy += f"; the released configurations say {released} for another total batch."
    title = f"{_TITLES[head]} with {recipe.model} on COCO, {'3x with multi-scale training' if long else '1x'}."
    command = f"Command: rmt train {recipe.name} --data COCO [--weights CLASSIFIER]"
    return recipe.name, named(recipe, "\n".join([title, "", fill(cost, 116), fill(accuracy, 116), command, ""]))


#: The rows of Tables 2 to 4 and 6, on COCO: name -> function that returns the recipe.
COCO = dict(_row(*row) for row in _ROWS)
