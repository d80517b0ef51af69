"""The published figures are those of the paper's tables, and every recipe that has some says them."""

import pytest

from rmt.recipes import ADE20K, COCO, IMAGENET, RECIPES
from rmt.recipes.published import DATASETS, PUBLISHED

#: as the tables have them: parameters, FLOPs, then the scores
ROWS = """
coco-mask-rcnn-tiny-1x 33 218 47.1 68.8 51.7 42.6 65.8 45.9
coco-mask-rcnn-small-1x 46 262 49.0 70.8 53.9 43.9 67.8 47.4
coco-mask-rcnn-base-1x 73 373 51.1 72.5 56.1 45.5 69.7 49.3
coco-mask-rcnn-large-1x 114 557 51.6 73.1 56.5 45.9 70.3 49.8
coco-retinanet-tiny-1x 23 199 45.1 66.2 48.1 28.8 48.9 61.1
coco-retinanet-small-1x 36 244 47.8 69.1 51.8 32.1 51.8 63.5
coco-retinanet-base-1x 63 355 49.1 70.3 53.0 32.9 53.2 64.2
coco-retinanet-large-1x 104 537 49.4 70.6 53.1 34.2 53.9 65.2
coco-mask-rcnn-small-3x 46 262 50.7 71.9 55.6 44.9 69.1 48.4
coco-mask-rcnn-base-3x 73 373 52.2 72.9 57.0 46.1 70.4 49.9
coco-cascade-mask-rcnn-small-3x 83 741 53.2 72.0 57.8 46.1 69.8 49.8
coco-cascade-mask-rcnn-base-3x 111 852 54.5 72.8 59.0 47.2 70.5 51.4
ade20k-semantic-fpn-tiny 17.0 33.7 46.4
ade20k-semantic-fpn-small 30 180 49.4
ade20k-semantic-fpn-base 57 294 50.4
ade20k-semantic-fpn-large 98 482 51.4
ade20k-upernet-small 56 937 49.8
ade20k-upernet-base 83 1051 52.0
ade20k-upernet-large 125 1241 52.8
imagenet-tiny 14.3 2.5 82.4
imagenet-small 27.0 4.5 84.1
imagenet-base 54.2 9.7 85.0
imagenet-large 95.5 18.2 85.5
imagenet-deit-small 22 4.6 81.7
imagenet-swin-tiny 29 4.7 83.6
imagenet-swin-small 50 9.1 84.5
"""


@pytest.mark.parametrize("row", ROWS.strip().splitlines(), ids=lambda row: row.split()[0])
def test_the_figures_are_those_of_the_tables(row):
    name, *figures = row.split()
    parameters, flops, *scores = map(float, figures)
    published = PUBLISHED[name]
    assert (published.parameters, published.flops) == (parameters, flops)
    assert list(published.scores.values()) == scores
    text = " ".join((RECIPES[name].__doc__ or "").split())
    for figure in (f"{parameters:g} M parameters", f"{flops:g} G multiply-adds at", *map(str, scores)):
        assert figure in text


def test_each_score_has_its_name():
    text = PUBLISHED["coco-mask-rcnn-tiny-1x"].describe_scores()
    assert text == "47.1 box AP (AP50 68.8, AP75 51.7), 42.6 mask AP (AP50 65.8, AP75 45.9)"
    text = PUBLISHED["coco-retinanet-tiny-1x"].describe_scores()
    assert text == "45.1 box AP (AP50 66.2, AP75 48.1, AP small 28.8, AP medium 48.9, AP large 61.1)"


def test_every_recipe_of_the_paper_has_a_row_and_every_row_a_recipe():
    assert set(PUBLISHED) <= set(RECIPES)
    assert {*IMAGENET, *COCO, *ADE20K} - set(PUBLISHED) == {"coco-mask-rcnn-large-3x"}
    assert {RECIPES[name]().task for name in PUBLISHED} == set(DATASETS)
    for name, published in PUBLISHED.items():
        text = " ".join((RECIPES[name].__doc__ or "").split())
        assert published.describe_scores() in text and published.table in text
