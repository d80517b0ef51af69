"""The losses of the detectors, each recomputed box by box in plain Python."""

import math

import pytest
import torch
from helpers.boxes import decode, encode, random_boxes
from helpers.detectors import tiny

from rmt.heads.detection.box_head import BoxHead
from rmt.heads.detection.mask_head import mask_loss, mask_targets
from rmt.heads.detection.options import MaskRCNNOptions, RetinaNetOptions
from rmt.heads.detection.postprocess import paste_masks
from rmt.heads.detection.retinanet import RetinaNetHead

DEFAULT_STDS = (0.1, 0.1, 0.2, 0.2)


def giou(a, b):
    inter = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter / union - (hull - union) / hull


def focal(logit, positive):
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if positive else -0.75 * p**2 * math.log(1 - p)


def smooth_l1(x, beta):
    return 0.5 * x * x / beta if abs(x) < beta else abs(x) - beta / 2


@pytest.mark.parametrize(
    ("kind", "weight", "stds"),
    [("l1", 1, DEFAULT_STDS), ("smooth_l1", 1, (0.05, 0.05, 0.1, 0.1)), ("giou", 10, (0.033, 0.033, 0.067, 0.067))],
)
def test_box_head(kind, weight, stds):
    torch.manual_seed(0)
    options = MaskRCNNOptions(fpn_channels=4, box_fcs=1, box_fc_width=8, box_loss=kind, box_weight=weight)
    head = BoxHead(3, stds, options).double()
    regions, truth = random_boxes(20, 60, 40).double(), random_boxes(20, 60, 40, seed=1).double()
    labels = torch.arange(20) % 4  # 3 is background
    logits, deltas = torch.randn(20, 4).double(), torch.randn(20, 3, 4).double()
    got_class, got_box = head.loss(logits, deltas, regions, labels, truth)
    class_loss = box_loss = 0.0
    for i in range(20):
        row, label = logits[i].tolist(), labels[i].item()
        class_loss += math.log(sum(math.exp(v) for v in row)) - row[label]
        if label == 3:
            continue
        own = deltas[i, label].tolist()
        if kind == "giou":
            box_loss += 1 - giou(decode(own, regions[i].tolist(), stds), truth[i].tolist())
        else:
            wanted = encode(truth[i].tolist(), regions[i].tolist(), stds)
            box_loss += sum(smooth_l1(a - b, 0 if kind == "l1" else 1 / 9) for a, b in zip(own, wanted, strict=True))
    assert got_class.item() == pytest.approx(class_loss / 20, rel=1e-6)
    assert got_box.item() == pytest.approx(weight * box_loss / 20, rel=1e-5)


@pytest.mark.parametrize("normalise_by", ["batch", "image"])
def test_retinanet(normalise_by):
    torch.manual_seed(0)
    head = RetinaNetHead(9, 3, RetinaNetOptions(fpn_channels=4, convs=1, normalise_by=normalise_by))
    anchors = random_boxes(30, 60, 40)
    targets = [
        dict(boxes=random_boxes(2, 60, 40, seed=2), labels=torch.tensor([0, 2])),
        dict(boxes=random_boxes(1, 60, 40, seed=3), labels=torch.tensor([1])),
        dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64)),
    ]
    matched = [torch.randint(-2, 2, (30,)), torch.randint(-2, 1, (30,)), torch.full((30,), -1)]
    outputs = dict(cls_logits=torch.randn(3, 30, 3), bbox_regression=torch.randn(3, 30, 4))
    got = head.compute_loss(targets, outputs, [anchors] * 3, matched)
    sums = []
    for b in range(3):
        class_loss = box_loss = positives = 0
        for a in range(30):
            index = matched[b][a].item()
            if index == -2:
                continue
            label = targets[b]["labels"][index].item() if index >= 0 else None
            class_loss += sum(focal(outputs["cls_logits"][b, a, k].item(), k == label) for k in range(3))
            if index >= 0:
                positives += 1
                wanted = encode(targets[b]["boxes"][index].tolist(), anchors[a].tolist())
                own = outputs["bbox_regression"][b, a].tolist()
                box_loss += sum(abs(p - q) for p, q in zip(own, wanted, strict=True))
        sums.append((class_loss, box_loss, positives))
    total = max(1, sum(s[2] for s in sums))
    for i, name in enumerate(("classification", "bbox_regression")):
        by_batch = sum(s[i] for s in sums) / total
        by_image = sum(s[i] / max(1, s[2]) for s in sums) / 3
        assert got[name].item() == pytest.approx(by_batch if normalise_by == "batch" else by_image, rel=1e-4)


@pytest.mark.parametrize(("head", "beta"), [("mask_rcnn", 0.0), ("cascade_mask_rcnn", 1 / 9)])
def test_proposals(head, beta):
    """L1 in Mask R-CNN, smooth L1 of β 1/9 in the cascade; both over all sampled anchors, positive or not."""
    rpn = tiny(head).rpn
    torch.manual_seed(0)
    logits, deltas, wanted = torch.randn(40), 0.3 * torch.randn(40, 4), 0.3 * torch.randn(40, 4)
    labels = torch.tensor([1.0] * 6 + [0.0] * 20 + [-1.0] * 14)  # fewer than are sampled: all of them count
    got_class, got_box = rpn.compute_loss(
        logits[:, None], deltas, [labels[:20], labels[20:]], [wanted[:20], wanted[20:]]
    )
    sign = [
        math.log(1 + math.exp(-v if positive else v)) for v, positive in zip(logits[:26].tolist(), labels, strict=False)
    ]
    assert got_class.item() == pytest.approx(sum(sign) / 26, rel=1e-5)
    box = sum(smooth_l1(v, beta) for v in (deltas - wanted)[:6].flatten().tolist())
    assert got_box.item() == pytest.approx(box / 26, rel=1e-5)


def test_how_many_proposals():
    """2,000 per level before suppression and 1,000 after (cascade: 2,000); 1,000 and 1,000 in testing."""
    for head, after in (("mask_rcnn", 1000), ("cascade_mask_rcnn", 2000)):
        rpn = tiny(head).rpn
        assert (rpn.train().pre_nms_top_n(), rpn.post_nms_top_n()) == (2000, after)
        assert (rpn.eval().pre_nms_top_n(), rpn.post_nms_top_n()) == (1000, 1000)
        assert rpn.nms_thresh == 0.7
    model = tiny("mask_rcnn", pre_nms=(9, 7), post_nms=(11, 5))
    counts = []
    model.roi_heads.register_forward_pre_hook(lambda module, args: counts.append(len(args[1][0])))
    with torch.no_grad():
        model.eval()([torch.rand(3, 64, 64)])
    assert counts == [5]


class TestMasks:
    def test_targets_are_the_mask_in_its_box(self):
        masks = torch.zeros(2, 40, 60)
        masks[0, 10:20, 20:40] = 1
        masks[1, :, 30:] = 1
        boxes = torch.tensor([[20.0, 10, 40, 20], [20, 0, 40, 40], [0, 0, 60, 40]])
        got = mask_targets(masks.byte(), torch.tensor([0, 1, 1]), boxes, 4)
        assert torch.equal(got[0], torch.ones(4, 4))
        assert torch.equal(got[1], torch.tensor([[0.0, 0, 1, 1]] * 4)) and torch.equal(got[2], got[1])

    def test_a_target_s_cell_is_on_from_half_of_it_on(self):
        """Cells of 5 × 5 pixels, of which masks cover 2, 3 or 5 columns; torchvision has soft targets."""
        masks = torch.zeros(2, 20, 60)
        masks[0, :, 33:], masks[1, :, 32:] = 1, 1
        boxes = torch.tensor([[20.0, 0, 40, 20]] * 2)
        got = mask_targets(masks, torch.arange(2), boxes, 4)
        assert got[:, 0].tolist() == [[0, 0, 0, 1], [0, 0, 1, 1]]

    def test_loss_is_that_of_the_own_class(self):
        torch.manual_seed(0)
        logits, labels = torch.randn(2, 3, 4, 4), torch.tensor([2, 0])
        targets = (torch.rand(2, 4, 4) > 0.5).float()
        total = 0.0
        for i in range(2):
            for logit, target in zip(
                logits[i, labels[i]].flatten().tolist(), targets[i].flatten().tolist(), strict=True
            ):
                total += math.log(1 + math.exp(-logit if target else logit))
        assert mask_loss(logits, labels, targets).item() == pytest.approx(total / 32, rel=1e-5)
        assert mask_loss(logits[:0], labels[:0], targets[:0]).item() == 0

    def test_pasting_spelled_out(self):
        torch.manual_seed(0)
        mask, (x1, y1, x2, y2) = torch.rand(1, 1, 5, 5), (3.3, 2.7, 17.9, 9.2)
        got = paste_masks(mask, torch.tensor([[x1, y1, x2, y2]]), (12, 24), None)[0, 0]
        for y in range(12):
            for x in range(24):
                inside = x1 <= x + 0.5 <= x2 and y1 <= y + 0.5 <= y2
                u, v = (x + 0.5 - x1) / (x2 - x1) * 5 - 0.5, (y + 0.5 - y1) / (y2 - y1) * 5 - 0.5
                expected = 0.0
                for i in (math.floor(v), math.floor(v) + 1):
                    for j in (math.floor(u), math.floor(u) + 1):
                        if 0 <= i < 5 and 0 <= j < 5:
                            expected += mask[0, 0, i, j].item() * (1 - abs(v - i)) * (1 - abs(u - j))
                if inside:
                    assert got[y, x].item() == pytest.approx(expected, abs=1e-5)
                elif x + 1.5 < x1 or x - 0.5 > x2 or y + 1.5 < y1 or y - 0.5 > y2:
                    assert got[y, x] == 0

    def test_bands_of_rows_make_no_difference(self, monkeypatch):
        masks = torch.rand(3, 1, 5, 5, generator=torch.Generator().manual_seed(0))
        boxes = torch.tensor([[3.3, 2.7, 17.9, 9.2], [-4, -3, 40, 30], [0, 5, 24, 6]])
        whole = paste_masks(masks, boxes, (12, 24), None)
        monkeypatch.setattr("rmt.heads.detection.postprocess._BAND_PIXELS", 30)
        assert torch.equal(paste_masks(masks, boxes, (12, 24), None), whole)

    def test_pasting_undoes_cropping(self):
        y, x = torch.meshgrid(torch.arange(60), torch.arange(80), indexing="ij")
        disc = (((x - 41.5) / 22) ** 2 + ((y - 30.5) / 15) ** 2 < 1)[None]
        box = torch.tensor([[18.2, 14.9, 65.1, 47.3]])
        back = paste_masks(mask_targets(disc, torch.tensor([0]), box, 28)[:, None], box, (60, 80), 0.5)[:, 0]
        assert back.dtype == torch.bool
        assert (back & disc).sum() / (back | disc).sum() > 0.95

    @pytest.mark.parametrize("box", [[-9.0, -9, -2, -1], [30, 30, 40, 40], [5, 5, 5, 9]])
    def test_boxes_beyond_the_image_or_without_width(self, box):
        assert not paste_masks(torch.ones(1, 1, 4, 4), torch.tensor([box]), (20, 20), 0.5).any()
