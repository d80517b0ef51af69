"""Small recipes that learn within minutes on a CPU, on data that this package or others ship.

docs/detection.md has the figures of the detection demos, and the commands that make their data.
"""

from dataclasses import replace

from rmt.recipes.classify import ClassifyRecipe
from rmt.recipes.detect import DetectRecipe
from rmt.recipes.recipe import AUTO


def quickstart() -> ClassifyRecipe:
    """A small RMT on the built-in sample (8,000 + 2,000 Fashion-MNIST images), in minutes and without a GPU.

    Cost: 171 to 174 CPU seconds of one core, from start to report.
    Accuracy: 90.80, 91.00, 91.30 % on the 2,000 test images for seeds 0, 1, 2, the last epoch's raw weights
    (benchmarks/quickstart.json).
    Command: rmt train quickstart
    """
    return ClassifyRecipe(
        name="quickstart",
        data="sample",
        model="rmt_nano",
        image_size=32,
        pad_to=32,
        crop_padding=AUTO,
        selection=500,
        epochs=8,
        batch_size=96,
        optimizer=AUTO,
        lr=0.0,
        lr_base_batch=0,
        warmup_epochs=1,
        weight_decay=0.05,
        ema_decay=0.98,
        min_crop=1.0,
        randaugment="",
        random_erasing=0.0,
        mixup=0.0,
        cutmix=0.0,
        crop_pct=1.0,
        workers=1,
    )


def demo_composites() -> DetectRecipe:
    """Mask R-CNN on photographed objects pasted on photographs (`scripts/make_composites.py`).

    Cost: 5.7 to 6.0 minutes of one CPU thread, evaluations included.
    Accuracy: box AP50 59.9, 64.6, 67.3 %, mask AP50 40.9, 43.5, 40.9 % for seeds 0, 1, 2 on 150 validation images,
    the last epoch's raw weights (docs/detection.md).
    Command: rmt train demo-composites --data composites
    """
    return DetectRecipe(
        name="demo-composites",
        model="rmt_pico",
        fpn_channels=48,
        head_convs=1,
        head_width=48,
        box_width=192,
        rois_per_image=16,
        proposals=64,
        anchor_scale=6.0,
        short_side=96,
        long_side=96,
        train_short_sides=(96,),
        epochs=4,
        lr_steps=(0.75,),
        batch_size=8,
        lr=1.5e-3,
        lr_base_batch=0,
        warmup_iterations=50,
        clip_grad=5.0,
        workers=0,
    )


def demo_trees() -> DetectRecipe:
    """Faster R-CNN on trees in aerial photographs (`scripts/make_trees.py`); training and validation tiles come from
    different photographs.

    Cost: 11 minutes of one CPU thread, evaluations included.
    Accuracy: AP50 16.8, 14.2, 16.7 % on 24 validation tiles for seeds 0, 1, 2, the last epoch's raw weights; the same
    boxes for every image reach 1.6 % (docs/detection.md).
    Command: rmt train demo-trees --data trees
    """
    return replace(
        demo_composites(),
        name="demo-trees",
        masks=False,
        head_convs=4,  # the defaults, as there is no mask head
        head_width=256,
        rois_per_image=64,
        proposals=200,
        anchor_scale=4.0,
        short_side=192,
        long_side=192,
        train_short_sides=(160, 192, 224),
        epochs=40,
        lr_steps=(0.8,),
        batch_size=4,
        ema_decay=0.98,
    )


def demo_overfit() -> DetectRecipe:
    """Cascade Mask R-CNN overfits eight composites, and is evaluated on the same (`scripts/take_images.py`).

    Cost: 4.1 minutes of one CPU thread, evaluations included.
    Accuracy: box AP50 94.1 %, mask AP50 74.3 % on the eight, seed 0, the last epoch's raw weights.
    Command: rmt train demo-overfit --data eight
    """
    return replace(
        demo_composites(),
        name="demo-overfit",
        head="cascade_mask_rcnn",
        rois_per_image=32,
        flip=0.0,
        epochs=10,
        lr_steps=(0.7, 0.9),
        batch_size=4,
        lr=1e-3,
    )
