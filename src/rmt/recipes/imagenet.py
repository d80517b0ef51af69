"""The recipes of the networks of the paper's Tables 1 and 6 on ImageNet-1k, with the settings of its App. B.

They take all GPUs of the machine. The effective batch is 1,024 on eight; on another number of devices the learning rate
is scaled with it. Published figures are the paper's: of the best epoch, raw or averaged weights, chosen on the
validation images themselves. The multiply-adds are the paper's, too; `rmt info` counts convolutions, linear layers and
attention products, and gets more.
"""

from dataclasses import replace
from textwrap import fill

from rmt.recipes.classify import ClassifyRecipe
from rmt.recipes.published import PUBLISHED
from rmt.recipes.recipe import AUTO, named

#: DeiT's recipe with repeated augmentation, for images of 224².
_SUPERVISED = ClassifyRecipe(
    name="",
    data="",
    image_size=224,
    epochs=300,
    batch_size=128,
    devices="auto",
    sync_batchnorm=True,
    lr=1e-3,
    lr_base_batch=1024,
    min_lr=1e-5,
    warmup_epochs=AUTO,  # 5 of 300 epochs
    warmup_lr=1e-6,
    weight_decay=0.05,
    drop_path="auto",
    ema_decay="auto",
    min_crop=0.08,
    flip=0.5,
    randaugment="rand-m9-mstd0.5-inc1",
    random_erasing=0.25,
    repeated_augmentation=True,
    interpolation="bicubic",
    crop_pct=0.875,
    loader=AUTO,
    mixup=0.8,
    cutmix=1.0,
    mix_switch=0.5,
    label_smoothing=0.1,
    workers=8,
)

#: The same with LV-ViT's token labelling: MixToken replaces Mixup and CutMix, ten more epochs at the minimum rate.
_TOKEN_LABELLED = replace(
    _SUPERVISED,
    epochs=310,
    cooldown_epochs=AUTO,  # 10 of 310 epochs
    interpolation="random",
    mixup=0.0,
    cutmix=0.0,
    token_labels="token-labels",
    token_loss=0.5,
    mix_token=1.0,
)

#: size: what is trained
_TITLES = {
    "tiny": "RMT-T",
    "small": "RMT-S",
    "base": "RMT-B",
    "large": "RMT-L",
    "deit-small": "RMT-DeiT-S: DeiT-S with MaSA for its attention (Table 6)",
    "swin-tiny": "RMT-Swin-T: Swin-T with MaSA for its attention (Table 6)",
    "swin-small": "RMT-Swin-S: Swin-S with MaSA for its attention (Table 6)",
    "small-tl": "RMT-S*: RMT-S trained with token labels, 27.5 M parameters",
    "base-tl": "RMT-B*: RMT-B trained with token labels, 54.7 M parameters",
    "large-tl": "RMT-L*: RMT-L trained with token labels, 96.1 M parameters",
}
_LAST = {"small": "last epoch 83.95 % in the authors' log, whose best is 84.10 % at epoch 261"}


def _row(size: str):
    tokens, name = size.endswith("-tl"), f"imagenet-{size}"
    recipe = replace(
        _TOKEN_LABELLED if tokens else _SUPERVISED,
        name=name,
        model=f"rmt_{size.replace('-', '_')}",
    )
    published = PUBLISHED[name]
    network, *what = _TITLES[size].split(": ")
    if published.parameters:
        what.append(f"{published.describe_cost()} (the paper's count)")
    cost = f"Cost: {recipe.epochs} epochs{' and one pass of the teacher' if tokens else ''}; GPU-hours not measured."
    last = _LAST.get(size, "last epoch not published")
    accuracy = f"Accuracy: published {published.describe_scores()} (best epoch, {published.table}); {last}."
    lines = [f"{network} on ImageNet-1k: {', '.join(what)}.", "", fill(f"{cost} {accuracy}", 116)]
    if tokens:
        lines.append("First: rmt token-labels --import label_top5_train_nfnet --data IMAGENET --out MAPS")
        lines.append("(the maps that LV-ViT published), or --teacher TIMM_NAME instead of --import (one's own teacher)")
    lines.append(f"Command: rmt train {name} --data IMAGENET{' --token-labels MAPS' if tokens else ''}")
    return named(recipe, "\n".join(lines) + "\n")


#: The rows of Table 1 and the designs of Table 6, on ImageNet-1k: name -> function that returns the recipe.
IMAGENET = {f"imagenet-{size}": _row(size) for size in _TITLES}
