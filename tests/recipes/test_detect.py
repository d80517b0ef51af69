"""The COCO recipes have the numbers of the paper's Sec. 4.2, and each builds its detector."""

from dataclasses import replace

import pytest
import torch

from rmt.model import MAX_DROP_PATH
from rmt.recipes import COCO, DetectRecipe
from rmt.tasks.detect.build import build_detector
from rmt.training.network import resolve_network

PUBLISHED = [
    *(f"coco-retinanet-{size}-1x" for size in ("tiny", "small", "base", "large")),
    *(f"coco-mask-rcnn-{size}-1x" for size in ("tiny", "small", "base", "large", "swin-tiny", "swin-small")),
    *(f"coco-mask-rcnn-{size}-3x" for size in ("small", "base", "large")),
    *(f"coco-cascade-mask-rcnn-{size}-3x" for size in ("small", "base")),
]
#: for every row
PAPER = dict(
    effective_batch=16,
    batch_size=2,
    devices="auto",
    lr=1e-4,
    lr_base_batch=16,
    warmup_iterations=500,
    warmup_factor=0.001,
    short_side=800,
    long_side=1333,
    flip=0.5,
    fpn_channels=256,
    head_convs=4,
    head_width=256,
    box_width=1024,
    rois_per_image=512,
    empty_images=False,
    freeze_batchnorm=False,
    sync_batchnorm=True,
    ema_decay=0.0,
    clip_grad=0.0,
)
ONE = dict(epochs=12, train_short_sides=(800,), random_crop=False)
THREE = dict(
    epochs=36,
    train_short_sides=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    random_crop=True,
)
HEADS = {
    "retinanet": dict(head="retinanet", masks=False, anchor_scale=4.0, weight_decay=1e-4, decay_norms=True),
    "mask": dict(head="mask_rcnn", masks=True, anchor_scale=8.0, weight_decay=0.05, decay_norms=False, proposals=1000),
    "cascade": dict(
        head="cascade_mask_rcnn", masks=True, anchor_scale=8.0, weight_decay=0.05, decay_norms=False, proposals=2000
    ),
}
#: the paper's Tables 2 to 4, and 6 for Swin's design; there is no row of Mask R-CNN 3x with RMT-L
_BOX_AP = (45.1, 47.8, 49.1, 49.4, 47.1, 49.0, 51.1, 51.6, 47.8, 49.5, 50.7, 52.2, "nothing", 53.2, 54.5)
BOX_AP = dict(zip(PUBLISHED, _BOX_AP, strict=True))


def test_every_published_row_has_a_recipe():
    assert list(COCO) == PUBLISHED


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_numbers_are_the_paper_s(name):
    recipe = COCO[name]()
    head, size = name.split("-")[1], name.split("-")[-2]
    size = f"swin_{size}" if "swin" in name else size
    expected = PAPER | HEADS[head] | (THREE if name.endswith("3x") else ONE)
    assert {key: getattr(recipe, key) for key in expected} == expected
    assert recipe.step_epochs() == ((27, 33) if name.endswith("3x") else (8, 11))
    assert recipe.model == f"rmt_{size}" and recipe.drop_path == "auto"
    assert resolve_network(recipe).drop_path == MAX_DROP_PATH[recipe.model]
    text = " ".join((COCO[name].__doc__ or "").split())
    released = "2e-4" if size == "large" or (size == "base" and name.endswith("3x")) else "4e-4"
    assert released in text or "swin" in name
    assert "none measured here" in text and f"Published: {BOX_AP[name]}" in text


ONE_STEP = DetectRecipe(name="one-step", epochs=40, lr_steps=(0.8,))


@pytest.mark.parametrize("recipe", [*(COCO[name]() for name in PUBLISHED), ONE_STEP], ids=lambda recipe: recipe.name)
def test_the_rate_falls_in_the_same_parts_of_a_run_of_any_length(recipe):
    long = replace(recipe, epochs=10 * recipe.epochs)
    assert recipe.step_epochs() and all(step < recipe.epochs for step in recipe.step_epochs())
    for step, later in zip(recipe.step_epochs(), long.step_epochs(), strict=True):
        assert later == pytest.approx(10 * step, abs=1)
    assert all(1 <= step <= 6 for step in replace(recipe, epochs=6).step_epochs())
    automatic = replace(recipe, lr_steps="auto")
    assert [replace(automatic, epochs=n).step_epochs() for n in (1, 2, 4, 6, 12)] == [(), (1,), (3,), (4,), (8, 11)]
    assert replace(recipe, lr_steps=(0.5, 4, 5)).step_epochs() == tuple(sorted({recipe.epochs // 2, 4, 5}))


@pytest.mark.parametrize("steps", [(0,), (-1,), (0.0,), (1.5,), (float("nan"),)])
def test_a_step_is_an_epoch_or_a_part_of_the_run(steps):
    (problem,) = replace(COCO[PUBLISHED[0]](), lr_steps=steps).problems()
    assert problem.startswith("--lr-steps must be whole epochs, or parts of the run between 0 and 1")


@pytest.mark.parametrize("head", HEADS)
def test_each_head_builds_as_the_paper_s(head):
    name = next(name for name in reversed(PUBLISHED) if f"coco-{head}" in name)
    recipe = resolve_network(replace(COCO[name](), model="rmt_pico"))
    with torch.device("meta"):
        model = build_detector(recipe, 80)
    options = model.options
    if head == "retinanet":
        assert (options.octave_base, options.octave_scales, options.convs) == (4.0, 3, 4)
        return
    trained, tested = (2000, 1000) if head == "cascade" else (1000, 1000)
    assert tuple(options.pre_nms) == (2000, 1000) and tuple(options.post_nms) == (trained, tested)
    assert tuple(options.stages) == ((0.5, 0.6, 0.7) if head == "cascade" else (0.5,))
    assert (options.box_convs, options.box_fcs) == ((4, 1) if head == "cascade" else (0, 2))


def test_every_field_explains_itself_on_the_command_line():
    import inspect
    from dataclasses import fields

    from rmt.recipes import detect, recipe

    source = inspect.getsource(recipe) + inspect.getsource(detect)
    for field in fields(DetectRecipe):
        after = source.split(f"    {field.name}: ")[-1].splitlines()[1]
        assert after.strip().startswith('"""'), f"{field.name} has no help text"
