"""The recipes for data of your own."""

from rmt.recipes.classify import ClassifyRecipe
from rmt.recipes.detect import DetectRecipe
from rmt.recipes.recipe import AUTO
from rmt.recipes.segment import SegmentRecipe


def finetune() -> ClassifyRecipe:
    """Your own image folder (`train/CLASS/*.jpg` and `val/…`, or one folder of classes), from weights or from scratch.

    Network and image size are those of the weights; without weights they are chosen, with the number of epochs, so that
    the run takes --minutes (15 on a CPU, 60 on a GPU), and printed before the first step. With --minutes 0 they are
    rmt_tiny at 224² on a GPU, rmt_pico at 96² on a CPU, and epochs of about 500 updates with weights and 1,500 without,
    but at least 30. For other classes than those of the weights the classifier is new.

    Cost: depends on the photos; 300 at 32² from the quickstart's weights are about 2 s per epoch on a CPU. Accuracy:
    not stated; training from scratch takes hundreds of photos per class. A run whose accuracy stays at that of guessing
    prints a warning with numbers.
    Command: rmt train finetune FOLDER [--weights FILE]
    """
    return ClassifyRecipe(
        name="finetune",
        metric="auto",
        best_tolerance=1.0,
        data="",
        model=AUTO,
        minutes=AUTO,
        workers=AUTO,
        image_size=0,
        epochs=0,
        epoch_repeats=AUTO,
        batch_size=AUTO,
        lr=0.0,
        layer_decay=0.0,
        lr_base_batch=0,
        warmup_epochs=AUTO,
        optimizer=AUTO,
        min_crop=0.5,
        crop_padding=AUTO,
        randaugment=AUTO,
        crop_pct=AUTO,
        random_erasing=AUTO,
        mixup=0.0,
        cutmix=0.0,
        ema_decay=0.0,
    )


def finetune_detect() -> DetectRecipe:
    """Your own images with boxes or masks: COCO, Pascal VOC, YOLO or labelme, or `--images FOLDER --annotations FILE`.

    Mask R-CNN from the weights of a classifier, or of a detector, which is loaded whole if sizes and classes are the
    same. Data with boxes only train without masks. Without `--val-annotations` a fifth of the images is held out.
    Network, image size, widths and number of epochs are chosen so that the run takes --minutes (15 on a CPU, 60 on a
    GPU), and printed before the first step; weights bring their network. The rate is divided by 10 after two thirds and
    after eleven twelfths of the epochs. With --minutes 0 they make about 2,000 updates.

    Cost: --minutes. Accuracy: not stated; it depends on the data and the weights.
    Command: rmt train finetune-detect FOLDER [--weights FILE]
    """
    return DetectRecipe(
        name="finetune-detect",
        masks=AUTO,
        model=AUTO,
        minutes=AUTO,
        workers=AUTO,
        fpn_channels=AUTO,
        head_convs=AUTO,
        head_width=AUTO,
        box_width=AUTO,
        rois_per_image=AUTO,
        proposals=AUTO,
        anchor_scale=AUTO,
        train_short_sides=AUTO,
        short_side=AUTO,
        long_side=AUTO,
        epochs=0,
        epoch_repeats=AUTO,
        batch_size=AUTO,
        lr=AUTO,
        lr_base_batch=0,
        lr_steps=AUTO,
        warmup_iterations=AUTO,
        clip_grad=AUTO,
    )


def finetune_segment() -> SegmentRecipe:
    """Your own images and masks (`images`, `masks`, `classes.txt`), by Semantic FPN, from weights or from scratch.

    Network, image and crop size, width of the head and number of iterations are chosen so that the run takes --minutes
    (15 on a CPU, 60 on a GPU), and printed before the first step; with --minutes 0 there are 4,000 iterations. Weights
    are those of a classifier (ours or the authors'), or of a segmenter, which is loaded whole if head and classes are
    the same.

    Cost: --minutes; docs/your-masks.md has measured runs. Accuracy: not stated.
    Command: rmt train finetune-segment FOLDER [--weights FILE]
    """
    return SegmentRecipe(
        name="finetune-segment",
        dice_weight=1.0,
        class_weights=True,
        class_weight_power=0.5,
        sliding=True,
        choose_inference=True,
        distortion=0.0,
        model=AUTO,
        minutes=AUTO,
        workers=AUTO,
        drop_path=AUTO,
        ema_decay=0.995,
        ema_warmup=True,
        head="semantic_fpn",
        head_width=AUTO,
        batch_size=AUTO,
        crop_size=AUTO,
        long_side=AUTO,
        short_side=AUTO,
        min_ratio=AUTO,
        max_ratio=AUTO,
        lr_base_batch=0,
        iterations=AUTO,
        validate_every=AUTO,
        lr=AUTO,
        min_lr=1e-6,
        poly_power=0.9,
        warmup_iterations=AUTO,
        weight_decay=AUTO,
        decay_norms=False,
    )
