"""The ADE20K recipes have the numbers of the paper's Sec. 4.3 and Table 5."""

from dataclasses import replace

import pytest

from rmt.recipes import ADE20K, RECIPES
from rmt.training.network import resolve_network

COMMON = dict(
    zero_is_ignored=True,
    batch_size=16,
    lr_base_batch=16,
    effective_batch=16,
    accumulate=1,
    crop_size=512,
    long_side=2048,
    short_side=512,
    min_ratio=0.5,
    max_ratio=2.0,
    max_class_share=0.75,
    flip=0.5,
    distortion=0.5,
    head_width=0,  # 128 on 256 for Semantic FPN, 512 for UPerNet: the heads' own
    aux_weight=0.4,
    ema_decay=0.0,
    clip_grad=0.0,
    sync_batchnorm=True,
    devices="auto",
)
SEMANTIC_FPN = dict(
    head="semantic_fpn",
    iterations=80_000,
    lr=1e-4,
    min_lr=1e-6,
    poly_power=0.9,
    warmup_iterations=0,
    weight_decay=1e-4,
    decay_norms=True,
)
UPERNET = dict(
    head="upernet",
    iterations=160_000,
    lr=6e-5,
    min_lr=0.0,
    poly_power=1.0,
    warmup_iterations=1_500,
    warmup_start=1e-6,
    weight_decay=0.01,
    decay_norms=False,
)
DROP_PATH = {"tiny": 0.1, "small": 0.15, "base": 0.4, "large": 0.5}
DROP_PATH |= {"swin-tiny": 0.2, "swin-small": 0.3}
ROWS = [("semantic-fpn", size) for size in DROP_PATH] + [("upernet", size) for size in ("small", "base", "large")]
MIOU = dict(zip(ROWS, (46.4, 49.4, 50.4, 51.4, 49.1, 51.0, 49.8, 52.0, 52.8), strict=True))


@pytest.mark.parametrize(("head", "size"), ROWS)
def test_the_numbers_are_the_paper_s(head, size):
    recipe = resolve_network(RECIPES[f"ade20k-{head}-{size}"]())
    expected = COMMON | (SEMANTIC_FPN if head == "semantic-fpn" else UPERNET)
    expected |= dict(model=f"rmt_{size.replace('-', '_')}", drop_path=DROP_PATH[size])
    assert {name: getattr(recipe, name) for name in expected} == expected
    assert f"published {MIOU[head, size]} mIoU" in (RECIPES[f"ade20k-{head}-{size}"].__doc__ or "")


def test_the_paper_s_rows_are_all_there():
    assert list(ADE20K) == [f"ade20k-{head}-{size}" for head, size in ROWS]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", 0),
        ("validate_every", 3),
        ("warmup_iterations", -1),
        ("warmup_start", 1.5),
        ("min_lr", 1.0),
        ("crop_size", 16),
        ("long_side", 16),
        ("short_side", 0),
        ("min_ratio", 3.0),
        ("max_class_share", 0.0),
        ("flip", -0.1),
        ("distortion", 2.0),
        ("holdout", 2.0),
        ("head_width", -1),
        ("aux_weight", -1.0),
        ("poly_power", -1.0),
    ],
)
def test_impossible_values_are_named_with_their_option(field, value):
    problems = replace(RECIPES["ade20k-semantic-fpn-tiny"](), **{field: value}).problems()
    assert any(f"--{field.replace('_', '-')}" in problem for problem in problems)
