"""Detection that learns within a quarter of an hour on one CPU thread, from scratch, on data that packages ship.

docs/detection.md has the figures, and the commands that make the data.
"""

from dataclasses import replace

from rmt.recipes.detect_recipe import DetectRecipe


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
        lr_steps=(3,),
        batch_size=8,
        lr=1.5e-3,
        lr_base_batch=0,
        warmup_iterations=50,
        clip_grad=5.0,
        workers=0,
    )


def demo_trees() -> DetectRecipe:
    """Faster R-CNN on trees seen from the air (`scripts/make_trees.py`), trained and judged on different photographs.

    Cost: 11 minutes of one CPU thread, evaluations included.
    Accuracy: AP50 16.8, 14.2, 16.7 % on 24 validation tiles for seeds 0, 1, 2, the last epoch's raw weights; the same
    boxes for every image reach 1.6 % (docs/detection.md).
    Command: rmt train demo-trees --data trees
    """
    return replace(
        demo_composites(),
        name="demo-trees",
        masks=False,
        head_convs=4,  # of a mask head, which there is none of: the defaults
        head_width=256,
        rois_per_image=64,
        proposals=200,
        anchor_scale=4.0,
        short_side=192,
        long_side=192,
        train_short_sides=(160, 192, 224),
        epochs=40,
        lr_steps=(32,),
        batch_size=4,
        ema_decay=0.98,
    )


def demo_overfit() -> DetectRecipe:
    """Cascade Mask R-CNN learns eight composites by heart, and is judged on the same (`scripts/take_images.py`).

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
        lr_steps=(7, 9),
        batch_size=4,
        lr=1e-3,
    )
