"""The recipes of the networks of the paper's Tables 1 and 6 on ImageNet-1k, with the settings of its App. B.

They take all GPUs of the machine. The effective batch is 1,024 on eight; on another number of devices the learning rate
is scaled with it. Published figures are the paper's: of the best epoch, raw or averaged weights, chosen on the
validation images themselves. The multiply-adds are the paper's, too; `rmt info` counts convolutions, linear layers and
attention products, and gets more.
"""

from dataclasses import replace
from textwrap import fill

from rmt.recipes.classify import ClassifyRecipe
from rmt.recipes.recipe import named

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
    warmup_epochs=5,
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
    cooldown_epochs=10,
    interpolation="random",
    mixup=0.0,
    cutmix=0.0,
    token_labels="token-labels",
    token_loss=0.5,
    mix_token=1.0,
)

#: name: (title, published accuracy)
_ROWS = {
    "tiny": ("RMT-T on ImageNet-1k: 14.3 M parameters, 2.5 G multiply-adds (the paper's count)", "82.4"),
    "small": ("RMT-S on ImageNet-1k: 27.0 M parameters, 4.5 G multiply-adds (the paper's count)", "84.1"),
    "base": ("RMT-B on ImageNet-1k: 54.2 M parameters, 9.7 G multiply-adds (the paper's count)", "85.0"),
    "large": ("RMT-L on ImageNet-1k: 95.5 M parameters, 18.2 G multiply-adds (the paper's count)", "85.5"),
    "deit-small": (
        "RMT-DeiT-S on ImageNet-1k: DeiT-S with MaSA for its attention, about 22 M parameters (Table 6)",
        "81.7",
    ),
    "swin-tiny": (
        "RMT-Swin-T on ImageNet-1k: Swin-T with MaSA for its attention, about 29 M parameters (Table 6)",
        "83.6",
    ),
    "swin-small": (
        "RMT-Swin-S on ImageNet-1k: Swin-S with MaSA for its attention, about 50 M parameters (Table 6)",
        "84.5",
    ),
    "small-tl": ("RMT-S* on ImageNet-1k: RMT-S trained with token labels, 27.5 M parameters", "84.8"),
    "base-tl": ("RMT-B* on ImageNet-1k: RMT-B trained with token labels, 54.7 M parameters", "85.6"),
    "large-tl": ("RMT-L* on ImageNet-1k: RMT-L trained with token labels, 96.1 M parameters", "86.1"),
}
_LAST = {"small": "last epoch 83.95 % in the authors' log, whose best is 84.10 % at epoch 261"}


def _row(size: str, title: str, top1: str):
    tokens, name = size.endswith("-tl"), f"imagenet-{size}"
    recipe = replace(
        _TOKEN_LABELLED if tokens else _SUPERVISED,
        name=name,
        model=f"rmt_{size.replace('-', '_')}",
    )
    cost = f"Cost: {recipe.epochs} epochs{' and one pass of the teacher' if tokens else ''}; GPU-hours not measured."
    last = _LAST.get(size, "last epoch not published")
    accuracy = f"Accuracy: published {top1} % top-1 (best epoch); {last}."
    lines = [f"{title}.", "", fill(f"{cost} {accuracy}", 116)]
    if tokens:
        lines.append("First: rmt token-labels --import label_top5_train_nfnet --data IMAGENET --out MAPS")
        lines.append("(the maps that LV-ViT published), or --teacher TIMM_NAME instead of --import (one's own teacher)")
    lines.append(f"Command: rmt train {name} --data IMAGENET{' --token-labels MAPS' if tokens else ''}")
    return named(recipe, "\n".join(lines) + "\n")


#: The recipes by name.
IMAGENET = {f"imagenet-{size}": _row(size, *row) for size, row in _ROWS.items()}
