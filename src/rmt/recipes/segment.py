"""The recipes of semantic segmentation: the paper's ADE20K table (METHOD 7), one function per row, and your own data.

Published figures are the paper's mIoU on ADE20K's 2,000 validation images; we know the best one only, so the others are
"not at hand".
"""

from rmt.recipes.segment_recipe import SegmentRecipe

_DROP_PATH = {"rmt_tiny": 0.1, "rmt_small": 0.15, "rmt_base": 0.4, "rmt_large": 0.5}  # METHOD 4


def _semantic_fpn(name: str, model: str) -> SegmentRecipe:
    """METHOD 7: AdamW 1e-4, weight decay 1e-4 on norms too, 80,000 iterations, power 0.9 to 1e-6."""
    return SegmentRecipe(
        name=name,
        model=model,
        drop_path=_DROP_PATH[model],
        zero_is_ignored=True,
        head="semantic_fpn",
        batch_size=16,
        effective_batch=16,
        lr_base_batch=16,
        iterations=80_000,
        validate_every=8_000,
        lr=1e-4,
        min_lr=1e-6,
        poly_power=0.9,
        weight_decay=1e-4,
        decay_norms=True,
        devices="auto",
        sync_batchnorm=True,
        workers=8,
    )


def _upernet(name: str, model: str) -> SegmentRecipe:
    """METHOD 7: AdamW 6e-5, weight decay 0.01 but on norms, 1,500 warm-up and 160,000 iterations, power 1."""
    return SegmentRecipe(
        name=name,
        model=model,
        drop_path=_DROP_PATH[model],
        zero_is_ignored=True,
        head="upernet",
        aux_weight=0.4,
        batch_size=16,
        effective_batch=16,
        lr_base_batch=16,
        iterations=160_000,
        validate_every=16_000,
        lr=6e-5,
        min_lr=0.0,
        poly_power=1.0,
        warmup_iterations=1_500,
        warmup_start=1e-6,
        weight_decay=0.01,
        decay_norms=False,
        devices="auto",
        sync_batchnorm=True,
        workers=8,
    )


def ade20k_semantic_fpn_tiny() -> SegmentRecipe:
    """Semantic FPN on RMT-T, ADE20K: 80,000 iterations of 16 crops of 512².

    Cost: GPU-hours not measured. Accuracy: published figure not at hand; none of ours.
    Command: rmt train ade20k-semantic-fpn-tiny --data ADEChallengeData2016 --weights RMT-T.pth
    """
    return _semantic_fpn("ade20k-semantic-fpn-tiny", "rmt_tiny")


def ade20k_semantic_fpn_small() -> SegmentRecipe:
    """Semantic FPN on RMT-S, ADE20K: 80,000 iterations of 16 crops of 512².

    Cost: GPU-hours not measured. Accuracy: published figure not at hand; none of ours.
    Command: rmt train ade20k-semantic-fpn-small --data ADEChallengeData2016 --weights RMT-S.pth
    """
    return _semantic_fpn("ade20k-semantic-fpn-small", "rmt_small")


def ade20k_semantic_fpn_base() -> SegmentRecipe:
    """Semantic FPN on RMT-B, ADE20K: 80,000 iterations of 16 crops of 512².

    Cost: GPU-hours not measured. Accuracy: published figure not at hand; none of ours.
    Command: rmt train ade20k-semantic-fpn-base --data ADEChallengeData2016 --weights RMT-B.pth
    """
    return _semantic_fpn("ade20k-semantic-fpn-base", "rmt_base")


def ade20k_semantic_fpn_large() -> SegmentRecipe:
    """Semantic FPN on RMT-L, ADE20K: 80,000 iterations of 16 crops of 512².

    Cost: GPU-hours not measured. Accuracy: published figure not at hand; none of ours.
    Command: rmt train ade20k-semantic-fpn-large --data ADEChallengeData2016 --weights RMT-L.pth
    """
    return _semantic_fpn("ade20k-semantic-fpn-large", "rmt_large")


def ade20k_upernet_small() -> SegmentRecipe:
    """UPerNet on RMT-S, ADE20K: 160,000 iterations of 16 crops of 512².

    Cost: GPU-hours not measured. Accuracy: published figure not at hand; none of ours.
    Command: rmt train ade20k-upernet-small --data ADEChallengeData2016 --weights RMT-S.pth
    """
    return _upernet("ade20k-upernet-small", "rmt_small")


def ade20k_upernet_base() -> SegmentRecipe:
    """UPerNet on RMT-B, ADE20K: 160,000 iterations of 16 crops of 512².

    Cost: GPU-hours not measured. Accuracy: published figure not at hand; none of ours.
    Command: rmt train ade20k-upernet-base --data ADEChallengeData2016 --weights RMT-B.pth
    """
    return _upernet("ade20k-upernet-base", "rmt_base")


def ade20k_upernet_large() -> SegmentRecipe:
    """UPerNet on RMT-L, ADE20K: 160,000 iterations of 16 crops of 512².

    Cost: GPU-hours not measured. Accuracy: published 52.8 mIoU (the paper's best); none of ours.
    Command: rmt train ade20k-upernet-large --data ADEChallengeData2016 --weights RMT-L.pth
    """
    return _upernet("ade20k-upernet-large", "rmt_large")


def finetune_segment() -> SegmentRecipe:
    """Your own images and masks (`images`, `masks`, `classes.txt`), by Semantic FPN, from weights or from scratch.

    The network is that of the weights; without weights rmt_tiny on a GPU, rmt_pico on a CPU. Weights are a classifier's
    (ours or the authors'), or a segmenter's, which is taken whole where head and classes are the same.

    Cost: depends on the photos and on --crop-size; docs/segmentation.md has measured runs. Accuracy: not stated.
    Command: rmt train finetune-segment --data FOLDER [--weights FILE]
    """
    return SegmentRecipe(
        name="finetune-segment",
        model="auto",
        drop_path=0.1,
        head="semantic_fpn",
        batch_size=8,
        lr_base_batch=0,
        iterations=4_000,
        validate_every=500,
        lr=2e-4,
        min_lr=1e-6,
        poly_power=0.9,
        warmup_iterations=200,
        weight_decay=0.01,
        decay_norms=False,
    )


#: The recipes by name.
SEGMENT = {
    make().name: make
    for make in (
        ade20k_semantic_fpn_tiny,
        ade20k_semantic_fpn_small,
        ade20k_semantic_fpn_base,
        ade20k_semantic_fpn_large,
        ade20k_upernet_small,
        ade20k_upernet_base,
        ade20k_upernet_large,
        finetune_segment,
    )
}
