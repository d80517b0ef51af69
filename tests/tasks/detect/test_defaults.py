"""What a detector's open fields are filled with: rules over the sizes and numbers of the objects."""

import math

import numpy as np
import pytest
from helpers.coco_sets import annotation, make_coco, open_coco, write_json
from PIL import Image

from rmt.data.detection.coco import find_split
from rmt.tasks.detect.defaults import ObjectStatistics, anchor_scale, detect_defaults, short_side

CELLS = ObjectStatistics(small=0.08, per_image=19, short_side=480, long_side=640)


def defaults(objects: ObjectStatistics = CELLS, **changes) -> dict:
    return detect_defaults(objects, **dict(head="mask_rcnn", channels=192, device="cpu", from_weights=False) | changes)


def test_statistics_are_those_of_the_annotations(tmp_path):
    """Ten large objects and five small ones of another class; the four of a third class are too few to count."""
    boxes = [(0, (0, 0, 40, 40))] * 10 + [(1, (0, 0, 4, 9))] * 5 + [(2, (0, 0, 1, 1))] * 4
    listed = [annotation(i + 1, i % 3, category, box) for i, (category, box) in enumerate(boxes)]
    for name in ("0", "1", "2"):
        Image.fromarray(np.zeros((60, 100, 3), np.uint8)).save(tmp_path / f"{name}.png")
    file = write_json(
        tmp_path / "all.json",
        {
            "images": [{"id": i, "file_name": f"{i}.png", "width": 100, "height": 60} for i in range(3)],
            "annotations": listed,
            "categories": [{"id": k, "name": f"class {k}"} for k in range(3)],
        },
    )
    found = ObjectStatistics.of(open_coco(tmp_path, file or tmp_path / "all.json", with_masks=False))
    assert found == ObjectStatistics(small=pytest.approx(6 / 60), per_image=6, short_side=60, long_side=100)


def test_statistics_of_images_without_objects_and_of_crowds(tmp_path):
    images = open_coco(*find_split(make_coco(tmp_path), "train"), with_masks=True)
    found = ObjectStatistics.of(images)
    counts = [len(images.objects(index).labels) for index in range(len(images))]
    assert found.per_image == max(int(np.percentile(counts, 90)), 1)
    assert 0 < found.small < 1


def test_blood_cells_on_a_cpu():
    """The values with which BCCD was measured."""
    assert defaults() == dict(
        short_side=192,
        long_side=320,
        train_short_sides=(160, 192, 224),
        anchor_scale=4.0,
        proposals=200,
        rois_per_image=64,
        fpn_channels=48,
        head_width=48,
        box_width=192,
        head_convs=2,
        lr=1.5e-3,
        clip_grad=5.0,
        warmup_iterations=50,
    )


@pytest.mark.parametrize("cpu", [True, False])
@pytest.mark.parametrize("small", [0.001, 0.05, 0.1, 0.5, 1.0])
def test_small_objects_ask_for_larger_images(small, cpu):
    chosen = short_side(ObjectStatistics(small, 5, 2000, 3000), cpu=cpu)
    smaller = short_side(ObjectStatistics(small / 2, 5, 2000, 3000), cpu=cpu)
    lowest, highest = (160, 320) if cpu else (640, 800)
    assert lowest <= chosen <= smaller <= highest and chosen % 32 == 0
    assert short_side(ObjectStatistics(small, 5, 64, 64), cpu=cpu) == 128  # at most twice the images' own


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("pixels", [4, 15, 16, 33, 70])
def test_anchors_fit_the_smaller_objects(pixels, stride):
    scale = anchor_scale(pixels, smallest_stride=stride)
    assert scale in (2, 4, 8)
    others = [abs(math.log2(pixels / (stride * other))) for other in (2, 4, 8)]
    assert abs(math.log2(pixels / (stride * scale))) == min(others)


def test_many_objects_ask_for_many_proposals():
    crowded = defaults(ObjectStatistics(0.08, 100, 480, 640))
    assert (crowded["proposals"], crowded["rois_per_image"]) == (1000, 512)
    assert (defaults()["proposals"], defaults()["rois_per_image"]) == (200, 64)


def test_a_gpu_and_a_large_network_have_full_heads_and_the_images_as_before():
    chosen = defaults(device="cuda", channels=512, from_weights=True)
    assert (chosen["fpn_channels"], chosen["head_width"], chosen["box_width"]) == (256, 256, 1024)
    assert (chosen["short_side"], chosen["lr"], chosen["clip_grad"]) == (640, 2e-4, 1.0)
    assert max(chosen["train_short_sides"]) == 640 and chosen["long_side"] >= 640 * 4 / 3


def test_every_value_is_allowed():
    from rmt.recipes import DetectRecipe

    for head in ("retinanet", "mask_rcnn", "cascade_mask_rcnn"):
        values = defaults(head=head)
        if head == "retinanet":
            values = {
                k: v for k, v in values.items() if k not in ("head_width", "proposals", "rois_per_image", "box_width")
            }
        assert DetectRecipe(name="x", head=head, masks=head != "retinanet", **values).problems() == []
