"""The named classification recipes. Each docstring states cost, expected accuracy and the exact command."""

from rmt.recipes.recipe import ClassifyRecipe


def quickstart() -> ClassifyRecipe:
    """A small RMT on the built-in sample (8,000 + 2,000 Fashion-MNIST images), in minutes and without a GPU.

    Cost: 4 min 42 s on two CPU cores, from start to report.
    Accuracy: 88.20, 88.30, 88.60 % on the 2,000 test images for seeds 0, 1, 2, the last epoch's raw weights
    (benchmarks/quickstart.json says how each was run).
    Command: rmt train quickstart
    """
    return ClassifyRecipe(
        name="quickstart",
        data="sample",
        model="rmt_pico",
        image_size=32,
        pad_to=32,
        selection=500,
        epochs=14,
        batch_size=64,
        lr=3e-3,
        lr_base_batch=0,
        warmup_epochs=1,
        weight_decay=0.05,
        ema_decay=0.995,
        min_crop=1.0,
        randaugment="",
        random_erasing=0.0,
        mixup=0.0,
        cutmix=0.0,
        crop_pct=1.0,
        workers=1,
    )


def finetune() -> ClassifyRecipe:
    """Your own image folder (`train/CLASS/*.jpg` and `val/…`, or one folder of classes), from weights or from scratch.

    Network and image size are those of the weights; without weights rmt_tiny at 224² on a GPU, rmt_pico at 96² on a
    CPU. A new set of classes gets a new classifier. Epochs, learning rate and its decay by layer are chosen to suit:
    about 500 updates with weights, 1,500 without, and never fewer than 30 epochs.

    Cost: depends on the photos; 300 at 32² from the quickstart's weights are about 2 s per epoch on a CPU. Accuracy:
    not stated; from scratch, count on hundreds of photos per class. A warning with numbers comes when it stays at
    chance.
    Command: rmt train finetune --data FOLDER [--weights FILE]
    """
    return ClassifyRecipe(
        name="finetune",
        data="",
        model="auto",
        image_size=0,
        epochs=0,
        batch_size=32,
        lr=0.0,
        layer_decay=0.0,
        lr_base_batch=0,
        warmup_epochs=3,
        min_crop=0.5,
        randaugment="rand-m5-mstd0.5-inc1",
        random_erasing=0.0,
        mixup=0.0,
        cutmix=0.0,
        ema_decay=0.0,
    )
