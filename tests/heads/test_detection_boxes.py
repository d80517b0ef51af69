"""Anchors, matching, extra levels, pooling and selection, each against loops in plain Python."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.boxes import random_boxes
from helpers.detectors import tiny
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from rmt.heads.detection.anchors import AnchorGenerator, Matcher
from rmt.heads.detection.fpn import LastLevelP6P7
from rmt.heads.detection.postprocess import filter_scores, nms
from rmt.heads.detection.roi_heads import MultiScaleRoIAlign


class TestAnchors:
    def test_spelled_out(self):
        """800 × 1344: P6 has 13 rows for 12.5 strides, where torchvision's strides are no longer 64."""
        anchors = AnchorGenerator([8], [0.5, 1.0, 2.0], [4, 8, 16, 32, 64])
        grids = [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]
        maps = [torch.zeros(1, 1, *grid) for grid in grids]
        (got,) = anchors(ImageList(torch.zeros(1, 3, 800, 1344), [(800, 1333)]), maps)
        expected = []
        for (rows, columns), stride in zip(grids, [4, 8, 16, 32, 64], strict=True):
            for y, x, ratio in itertools.product(range(rows), range(columns), [0.5, 1.0, 2.0]):
                w, h = 8 * stride / math.sqrt(ratio), 8 * stride * math.sqrt(ratio)
                expected.append((x * stride - w / 2, y * stride - h / 2, x * stride + w / 2, y * stride + h / 2))
        torch.testing.assert_close(got, torch.tensor(expected), rtol=1e-6, atol=1e-4)

    def test_retinanet_has_three_octave_scales_unrounded(self):
        model = tiny("retinanet")
        assert model.anchor_generator.strides == [8, 16, 32, 64, 128]
        sides = [
            math.sqrt(w * h)
            for w, h in model.anchor_generator.base_anchors[0].reshape(-1, 2, 2).diff(dim=1)[:, 0].tolist()
        ]
        expected = [8 * 4 * 2 ** (i / 3) for i in range(3)] * 3
        assert sides == pytest.approx(expected)
        rounded = tiny("retinanet", round_anchors=True).anchor_generator.base_anchors[0]
        assert torch.equal(rounded, model.anchor_generator.base_anchors[0].round())

    def test_stay_float32_under_bfloat16_maps(self):
        anchors = AnchorGenerator([8], [1.0], [4])
        (got,) = anchors(ImageList(torch.zeros(1, 3, 8, 2000), [(8, 2000)]), [torch.zeros(1, 1, 2, 500).bfloat16()])
        assert got.dtype == torch.float32 and got[-1, 2] == 499 * 4 + 16


class TestMatching:
    @pytest.mark.parametrize("low_quality", [None, 0.0, 0.5])
    @pytest.mark.parametrize("seed", range(4))
    def test_spelled_out(self, low_quality, seed):
        quality = box_iou(random_boxes(6, 60, 60, seed), random_boxes(200, 60, 60, seed + 10))
        got = Matcher(0.5, 0.4, low_quality=low_quality)(quality)
        expected = []
        for anchor in range(200):
            overlaps = quality[:, anchor].tolist()
            best = max(range(6), key=lambda i: overlaps[i])
            match = best if overlaps[best] >= 0.5 else -1 if overlaps[best] < 0.4 else -2
            if low_quality is not None:
                for i in range(6):
                    row_best = quality[i].max().item()
                    if overlaps[i] == row_best > 0 and row_best >= low_quality:
                        match = i
            expected.append(match)
        assert got.tolist() == expected

    def test_an_object_takes_its_best_anchor_from_another(self):
        quality = torch.tensor([[0.9, 0.2], [0.8, 0.1]])
        assert Matcher(0.5, 0.5, low_quality=None)(quality).tolist() == [0, -1]
        assert Matcher(0.5, 0.5, low_quality=0.5)(quality).tolist() == [1, -1]  # the second object's best too

    def test_an_object_that_nothing_overlaps_takes_nothing(self):
        quality = torch.tensor([[0.0, 0.0], [0.6, 0.0]])
        assert Matcher(0.5, 0.4, low_quality=0.0)(quality).tolist() == [1, -1]

    def test_where_each_rule_holds(self):
        """Low-quality matches in Mask R-CNN's regions, not in the cascade's."""
        assert [m.low_quality for m in tiny("mask_rcnn").roi_heads.matchers] == [0.5]
        cascade = tiny("cascade_mask_rcnn").roi_heads.matchers
        assert [(m.high_threshold, m.low_quality) for m in cascade] == [(0.5, None), (0.6, None), (0.7, None)]


class TestExtraLevels:
    def test_p6_reads_c5_even_if_p5_has_as_many_channels(self):
        torch.manual_seed(0)
        levels = LastLevelP6P7(8, 8)
        p5, c5 = torch.randn(1, 8, 5, 7), torch.randn(1, 8, 5, 7)
        (*_, p6, p7), names = levels([p5], [c5], ["2"])
        expected = F.conv2d(c5, levels.p6.weight, levels.p6.bias, stride=2, padding=1)
        torch.testing.assert_close(p6, expected)
        torch.testing.assert_close(p7, F.conv2d(p6, levels.p7.weight, levels.p7.bias, stride=2, padding=1))  # no ReLU
        assert names == ["2", "p6", "p7"] and (p6 < 0).any()

    def test_torchvision_s_way_is_an_option(self):
        import torchvision.ops.feature_pyramid_network as tv

        theirs, ours = tv.LastLevelP6P7(8, 8), LastLevelP6P7(8, 8, source="p5", relu=True)
        ours.load_state_dict(theirs.state_dict())
        p5, c5 = torch.randn(1, 8, 5, 7), torch.randn(1, 8, 5, 7)
        for a, b in zip(ours([p5], [c5], ["2"])[0], theirs([p5], [c5], ["2"])[0], strict=True):
            assert torch.equal(a, b)


def bilinear(m: torch.Tensor, y: float, x: float) -> float:
    """One channel at a point, pixel centres at whole numbers; 0 from one pixel outside on."""
    height, width = m.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    top = m[y0, x0] * (1 - x + x0) + m[y0, x1] * (x - x0)
    bottom = m[y1, x0] * (1 - x + x0) + m[y1, x1] * (x - x0)
    return float(top * (1 - y + y0) + bottom * (y - y0))


class TestPooling:
    @pytest.mark.parametrize(("aligned", "sampling_ratio"), [(True, 0), (False, 2)])
    def test_spelled_out(self, aligned, sampling_ratio):
        """The level ⌊4 + log₂(√area / 224)⌋; bins averaged over ⌈bin⌉² points (or sampling_ratio²)."""
        maps = [
            torch.randn(2, 1, 128 // s, 256 // s, generator=torch.Generator().manual_seed(s)) for s in (4, 8, 16, 32)
        ]
        boxes = [torch.tensor([[3.0, 5, 60, 50], [0, 0, 130, 120]]), torch.tensor([[20.5, 1.25, 250, 127]])]
        got = MultiScaleRoIAlign(3, [4, 8, 16, 32], aligned=aligned, sampling_ratio=sampling_ratio)(maps, boxes)
        assert got.shape == (3, 1, 3, 3)
        rois = [(0, box) for box in boxes[0].tolist()] + [(1, box) for box in boxes[1].tolist()]
        for (image, (x1, y1, x2, y2)), result in zip(rois, got, strict=True):
            level = min(3, max(0, math.floor(4 + math.log2(math.sqrt((x2 - x1) * (y2 - y1)) / 224)) - 2))
            stride, shift = 4 * 2**level, 0.5 if aligned else 0.0
            left, top = x1 / stride - shift, y1 / stride - shift
            width, height = (x2 - x1) / stride / 3, (y2 - y1) / stride / 3
            if not aligned:
                width, height = max(width, 1 / 3), max(height, 1 / 3)
            nx = sampling_ratio or math.ceil(width)
            ny = sampling_ratio or math.ceil(height)
            for i, j in itertools.product(range(3), range(3)):
                points = [
                    bilinear(
                        maps[level][image, 0], top + height * (i + (a + 0.5) / ny), left + width * (j + (b + 0.5) / nx)
                    )
                    for a, b in itertools.product(range(ny), range(nx))
                ]
                assert result[0, i, j].item() == pytest.approx(sum(points) / len(points), abs=1e-4)

    def test_without_boxes_every_map_still_has_a_gradient(self):
        maps = [torch.randn(1, 2, s, s, requires_grad=True) for s in (8, 4, 2, 1)]
        pooled = MultiScaleRoIAlign(7, [4, 8, 16, 32], aligned=True, sampling_ratio=0)(maps, [torch.zeros(0, 4)])
        pooled.sum().backward()
        assert pooled.shape == (0, 2, 7, 7) and all(m.grad is not None for m in maps)


class TestSelection:
    def test_the_highest_scores(self):
        scores = torch.tensor([[0.9, 0.01], [0.2, 0.5], [0.04, 0.6]])
        assert sorted(zip(*(t.tolist() for t in filter_scores(scores, 0.05)), strict=True)) == [
            (0, 0),
            (1, 0),
            (1, 1),
            (2, 1),
        ]
        assert [t.tolist() for t in filter_scores(scores, 0.05, 2)] == [[0, 2], [0, 1]]

    def test_suppression_within_a_label_spelled_out(self):
        boxes, labels = random_boxes(80, 30, 30), torch.arange(80) % 3
        scores = torch.rand(80, generator=torch.Generator().manual_seed(1))
        boxes[5, 2], scores[5] = boxes[5, 0], 2.0  # without width, and the likeliest
        kept: list[int] = []
        overlaps = box_iou(boxes, boxes)
        for i in sorted(range(80), key=lambda i: -scores[i].item()):
            if i != 5 and all(labels[i] != labels[j] or overlaps[i, j] <= 0.5 for j in kept):
                kept.append(i)
        got = nms(boxes, labels, scores, threshold=0.5, limit=10)
        assert torch.equal(got["boxes"], boxes[kept[:10]]) and torch.equal(got["scores"], scores[kept[:10]])
        assert torch.equal(got["labels"], labels[kept[:10]])
