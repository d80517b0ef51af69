"""The named detection recipes: METHOD 6's table on COCO, and one for a person's own data."""

from collections.abc import Callable
from dataclasses import replace
from textwrap import fill

from rmt.recipes.detect_recipe import DetectRecipe, Head

#: The variants and their stochastic depth: the variant's maximum (METHOD 6).
_DROP_PATH = {"tiny": 0.1, "small": 0.15, "base": 0.4, "large": 0.5}
_TITLES: dict[Head, str] = {
    "retinanet": "RetinaNet",
    "mask_rcnn": "Mask R-CNN",
    "cascade_mask_rcnn": "Cascade Mask R-CNN",
}

_COST = (
    "Cost: not measured here; {epochs} epochs of the 117,266 images of train2017 that show objects, at a short side "
    "of {side} px; 16 images per update, 2 at once on a GPU: all GPUs of the machine, fewer than 8 accumulating."
)
_ACCURACY = (
    "Accuracy: none measured here. {published} The rate falls after epochs {steps}. AdamW at 1e-4 for 16 images is the "
    "paper's; the released configurations say {released} for another total batch."
)

_PUBLISHED_BEST = "The paper's best is this row: 54.5 box AP, 47.2 mask AP."
_PUBLISHED = "The paper has this row; its best on COCO is 54.5 box AP, 47.2 mask AP (RMT-B, Cascade, 3x)."


def _one_schedule(head: Head, size: str) -> DetectRecipe:
    """1x: 12 epochs, the rate divided by 10 after 8 and 11, short side 800, long side at most 1333."""
    short = head.replace("_", "-")
    recipe = DetectRecipe(
        name=f"coco-{short}-{size}-1x",
        head=head,
        model=f"rmt_{size}",
        drop_path=_DROP_PATH[size],
        effective_batch=16,
        devices="auto",
        weight_decay=0.05,
        sync_batchnorm=True,
        workers=8,
    )
    if head == "retinanet":
        return replace(recipe, masks=False, anchor_scale=4.0, weight_decay=1e-4, decay_norms=True)
    return replace(recipe, proposals=2000) if head == "cascade_mask_rcnn" else recipe


def _three_schedule(head: Head, size: str) -> DetectRecipe:
    """3x+MS: 36 epochs, the rate divided by 10 after 27 and 33, short sides 480…800, half of the images cropped."""
    recipe = _one_schedule(head, size)
    return replace(
        recipe,
        name=recipe.name.replace("-1x", "-3x"),
        epochs=36,
        lr_steps=(27, 33),
        train_short_sides=tuple(range(480, 801, 32)),
        random_crop=True,
    )


def _row(make: Callable[[Head, str], DetectRecipe], head: Head, size: str) -> tuple[str, Callable[[], DetectRecipe]]:
    recipe = make(head, size)
    long = recipe.epochs == 36

    def row() -> DetectRecipe:
        return make(head, size)

    row.__name__ = recipe.name.replace("-", "_")
    cost = _COST.format(epochs=recipe.epochs, side="480 to 800" if long else "800")
    best = (head, size, long) == ("cascade_mask_rcnn", "base", True)
    accuracy = _ACCURACY.format(
        published=_PUBLISHED_BEST if best else _PUBLISHED,
        steps=" and ".join(map(str, recipe.lr_steps)),
        released="2e-4" if size == "large" or (size == "base" and long) else "4e-4",
    )
    schedule = "3x with multi-scale training" if long else "1x"
    command = f"Command: rmt train {recipe.name} --data COCO [--weights CLASSIFIER]"
    title = f"{_TITLES[head]} with {recipe.model} on COCO, {schedule}."
    row.__doc__ = "\n".join([title, "", fill(cost, 116), fill(accuracy, 116), command, ""])
    return recipe.name, row


#: The rows that the paper has (METHOD 6).
COCO: dict[str, Callable[[], DetectRecipe]] = dict(
    [
        *(_row(_one_schedule, "retinanet", size) for size in ("tiny", "small", "base", "large")),
        *(_row(_one_schedule, "mask_rcnn", size) for size in ("tiny", "small", "base", "large")),
        *(_row(_three_schedule, "mask_rcnn", size) for size in ("small", "base", "large")),
        *(_row(_three_schedule, "cascade_mask_rcnn", size) for size in ("small", "base")),
    ]
)


def finetune_detect() -> DetectRecipe:
    """Your own images in COCO format: a COCO folder, or `--images FOLDER --annotations FILE`.

    Mask R-CNN from a classifier's weights, or a detector's, which is taken whole where sizes and classes are the same.
    `--no-masks` is for data that have boxes alone. Without `--val-annotations` a fifth of the images is held out.
    Network: that of the weights; without weights rmt_tiny on a GPU and rmt_pico on a CPU. As many epochs as make about
    2,000 updates, the rate divided by 10 after two thirds and after eleven twelfths of them.

    Cost: depends on the images: 2,000 updates of 4. Accuracy: not stated; it depends on the data and the weights.
    Command: rmt train finetune-detect --data FOLDER [--weights FILE]
    """
    return DetectRecipe(
        name="finetune-detect",
        model="auto",
        epochs=0,
        lr_steps=(),
        batch_size=4,
        lr=2e-4,
        lr_base_batch=0,
        warmup_iterations=200,
        clip_grad=1.0,
        train_short_sides=(480, 560, 640),
        short_side=640,
        long_side=1066,
    )
