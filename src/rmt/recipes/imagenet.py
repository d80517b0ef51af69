"""The recipes of the paper's ImageNet-1k table (METHOD 5), one function per row.

They take all GPUs of the machine. The effective batch is 1,024 on eight; on another number the learning rate follows
it. "Published" are the paper's figures: the best epoch's, of raw or averaged weights, chosen on the validation images
themselves. The multiply-adds are the paper's, too; `rmt info` counts convolutions, linear layers and attention products
and gets more.
"""

from dataclasses import replace
from typing import Any

from rmt.recipes.recipe import ClassifyRecipe


def _paper(name: str, model: str, drop_path: float, **changes: Any) -> ClassifyRecipe:
    """METHOD 5: DeiT's recipe with repeated augmentation, for 224² images."""
    recipe = ClassifyRecipe(
        name=name,
        data="",
        model=model,
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
        drop_path=drop_path,
        ema_decay=0.99992,  # 0.99996^(batch / 512) at an effective batch of 1,024
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
    return replace(recipe, **changes)


def _token_labelled(name: str, model: str, drop_path: float) -> ClassifyRecipe:
    """The same with token labelling: MixToken instead of Mixup and CutMix, ten more epochs at the minimum rate."""
    return _paper(
        name,
        model,
        drop_path,
        epochs=310,
        cooldown_epochs=10,
        interpolation="random",
        mixup=0.0,
        cutmix=0.0,
        token_labels="token-labels",
        token_loss=0.5,
        mix_token=1.0,
    )


def imagenet_tiny() -> ClassifyRecipe:
    """RMT-T on ImageNet-1k: 14.3 M parameters, 2.5 G multiply-adds (the paper's count).

    Cost: 300 epochs; GPU-hours not measured. Accuracy: published 82.4 % top-1 (best epoch); last epoch not published.
    Command: rmt train imagenet-tiny --data IMAGENET
    """
    return _paper("imagenet-tiny", "rmt_tiny", 0.1)


def imagenet_small() -> ClassifyRecipe:
    """RMT-S on ImageNet-1k: 27.0 M parameters, 4.5 G multiply-adds (the paper's count).

    Cost: 300 epochs; GPU-hours not measured. Accuracy: published 84.1 % top-1 (best epoch, the authors' log has 84.10
    at epoch 261); last epoch 83.95 % in the same log.
    Command: rmt train imagenet-small --data IMAGENET
    """
    return _paper("imagenet-small", "rmt_small", 0.15)


def imagenet_base() -> ClassifyRecipe:
    """RMT-B on ImageNet-1k: 54.2 M parameters, 9.7 G multiply-adds (the paper's count).

    Cost: 300 epochs; GPU-hours not measured. Accuracy: published 85.0 % top-1 (best epoch); last epoch not published.
    Command: rmt train imagenet-base --data IMAGENET
    """
    return _paper("imagenet-base", "rmt_base", 0.4)


def imagenet_large() -> ClassifyRecipe:
    """RMT-L on ImageNet-1k: 95.5 M parameters, 18.2 G multiply-adds (the paper's count).

    Cost: 300 epochs; GPU-hours not measured. Accuracy: published 85.5 % top-1 (best epoch); last epoch not published.
    Command: rmt train imagenet-large --data IMAGENET
    """
    return _paper("imagenet-large", "rmt_large", 0.5)


def imagenet_deit_small() -> ClassifyRecipe:
    """The paper's ablation: DeiT-S with its attention replaced by MaSA, about 22 M parameters.

    Cost: 300 epochs; GPU-hours not measured. Accuracy: no figure at hand, neither best nor last.
    Command: rmt train imagenet-deit-small --data IMAGENET
    """
    return _paper("imagenet-deit-small", "rmt_deit_small", 0.1)


def imagenet_swin_tiny() -> ClassifyRecipe:
    """The paper's ablation: Swin-T with its attention replaced by MaSA, about 29 M parameters.

    Cost: 300 epochs; GPU-hours not measured. Accuracy: no figure at hand, neither best nor last.
    Command: rmt train imagenet-swin-tiny --data IMAGENET
    """
    return _paper("imagenet-swin-tiny", "rmt_swin_tiny", 0.2)


def imagenet_swin_small() -> ClassifyRecipe:
    """The paper's ablation: Swin-S with its attention replaced by MaSA, about 50 M parameters.

    Cost: 300 epochs; GPU-hours not measured. Accuracy: no figure at hand, neither best nor last.
    Command: rmt train imagenet-swin-small --data IMAGENET
    """
    return _paper("imagenet-swin-small", "rmt_swin_small", 0.3)


def imagenet_small_tl() -> ClassifyRecipe:
    """RMT-S* on ImageNet-1k: RMT-S trained by token labelling, 27.5 M parameters.

    Cost: 310 epochs and one pass of the teacher; GPU-hours not measured. Accuracy: published 84.8 % top-1 (best epoch);
    last epoch not published.
    First: rmt token-labels --teacher TIMM_NAME --data IMAGENET --out MAPS
    Command: rmt train imagenet-small-tl --data IMAGENET --token-labels MAPS
    """
    return _token_labelled("imagenet-small-tl", "rmt_small_tl", 0.15)


def imagenet_base_tl() -> ClassifyRecipe:
    """RMT-B* on ImageNet-1k: RMT-B trained by token labelling, 54.7 M parameters.

    Cost: 310 epochs and one pass of the teacher; GPU-hours not measured. Accuracy: published 85.6 % top-1 (best epoch);
    last epoch not published.
    First: rmt token-labels --teacher TIMM_NAME --data IMAGENET --out MAPS
    Command: rmt train imagenet-base-tl --data IMAGENET --token-labels MAPS
    """
    return _token_labelled("imagenet-base-tl", "rmt_base_tl", 0.4)


def imagenet_large_tl() -> ClassifyRecipe:
    """RMT-L* on ImageNet-1k: RMT-L trained by token labelling, 96.1 M parameters.

    Cost: 310 epochs and one pass of the teacher; GPU-hours not measured. Accuracy: published 86.1 % top-1 (best epoch);
    last epoch not published.
    First: rmt token-labels --teacher TIMM_NAME --data IMAGENET --out MAPS
    Command: rmt train imagenet-large-tl --data IMAGENET --token-labels MAPS
    """
    return _token_labelled("imagenet-large-tl", "rmt_large_tl", 0.5)


#: The recipes by name.
IMAGENET = {
    make().name: make
    for make in (
        imagenet_tiny,
        imagenet_small,
        imagenet_base,
        imagenet_large,
        imagenet_deit_small,
        imagenet_swin_tiny,
        imagenet_swin_small,
        imagenet_small_tl,
        imagenet_base_tl,
        imagenet_large_tl,
    )
}
