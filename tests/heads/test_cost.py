"""Multiply-accumulates of detectors and segmenters, against the paper's tables and by hand."""

import pytest
import torch
from torch import nn

from rmt.heads import detector, segmenter
from rmt.heads.cost import count_macs
from rmt.recipes import RECIPES
from rmt.recipes.published import DATASETS, PUBLISHED
from rmt.tasks.detect.build import build_detector
from rmt.tasks.segment.build import build_segmenter
from rmt.training.network import resolve_network

QUICK = {"coco-mask-rcnn-tiny-1x", "coco-retinanet-small-1x", "coco-cascade-mask-rcnn-small-3x"}
QUICK |= {"ade20k-semantic-fpn-tiny", "ade20k-semantic-fpn-small", "ade20k-upernet-small"}
ROWS = [name for name, row in PUBLISHED.items() if RECIPES[name]().task != "classify" and row.flops]


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in ROWS])
def test_layers_are_those_of_the_tables(name):
    """Tables 2 to 5 count convolutions and linear layers, see docs/paper-vs-code.md."""
    recipe, row = resolve_network(RECIPES[name]()), PUBLISHED[name]
    build = build_detector if recipe.task == "detect" else build_segmenter
    with torch.device("meta"):
        model = build(recipe, DATASETS[recipe.task].classes)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(row.parameters, rel=0.015)
    assert count_macs(model, *row.size).layer_macs / 1e9 == pytest.approx(row.flops, rel=0.005)


def products(backbone, height, width) -> int:
    """Both products of every attention: of all pairs of tokens, or of those in a row and in a column."""
    total = 0
    for stage, stride in zip(backbone.stages, (4, 8, 16, 32), strict=True):
        h, w = -(-height // stride), -(-width // stride)
        for block in stage.blocks:
            dim = block.attn.num_heads * block.attn.head_dim
            total += 2 * h * w * dim * (h + w if block.attn.decomposed else h * w)
    return total


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn", "semantic_fpn", "upernet"])
def test_the_rest_is_the_products_of_the_attention(head):
    make = detector if head in ("retinanet", "mask_rcnn") else segmenter
    with torch.device("meta"):
        model = make(head, "rmt_test", 3)
    cost = count_macs(model, 96, 160)
    assert cost.macs - cost.layer_macs == products(model.pyramid.backbone, 96, 160)


def test_box_and_mask_heads_are_counted_for_1000_and_100_regions():
    with torch.device("meta"):
        model = detector("mask_rcnn", "rmt_test", 80, fpn_channels=16, box_fc_width=32, mask_width=16)
    before = count_macs(model, 64, 64).macs
    box, mask = 16 * 49 * 32 + 32 * 32 + 32 * 81 + 32 * 320, 4 * 16 * 16 * 9 * 14**2 + 16 * 16 * 28**2 + 16 * 80 * 28**2
    model.roi_heads.box_heads, model.roi_heads.mask_heads = nn.ModuleList(), nn.ModuleList()
    assert before - count_macs(model, 64, 64).macs == 1000 * box + 100 * mask
