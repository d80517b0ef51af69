"""The region heads: what a stage learns from, how boxes go from stage to stage, and the paper's sizes."""

import pytest
import torch
import torchvision.models.detection as tv
from helpers.boxes import decode, random_boxes
from helpers.detectors import scene, scenes, tiny
from torch import nn
from torchvision.ops import box_iou

import rmt
from rmt.heads.detection import CascadeMaskRCNNOptions, MaskRCNNOptions, RetinaNetOptions
from rmt.training.distributed.sync_batchnorm import CPUSyncBatchNorm2d, convert_sync_batchnorm

STDS = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
SHAPE = (70, 90)


class TestSampling:
    @pytest.mark.parametrize("stage", range(3))
    def test_labels_follow_the_stage_s_overlap(self, stage):
        heads = tiny("cascade_mask_rcnn", rois_per_image=10**6).roi_heads
        _, target = scene()
        proposals = target["boxes"].repeat(40, 1) + torch.randn(80, 4, generator=torch.Generator().manual_seed(0)) * 5
        samples = heads.select_training_samples(proposals, target, stage, SHAPE)
        overlap, best = box_iou(samples.boxes, target["boxes"]).max(dim=1)
        shown = overlap >= (0.5, 0.6, 0.7)[stage]
        assert len(samples.boxes) == 82 and samples.is_gt.sum() == 2 and 2 < shown.sum() < 82
        assert torch.equal(samples.labels, torch.where(shown, target["labels"][best], 3))
        assert torch.equal(samples.matched[shown], best[shown])
        assert torch.equal(samples.gt_boxes[shown], target["boxes"][best[shown]])
        assert torch.equal(samples.boxes[samples.is_gt], target["boxes"])

    def test_a_quarter_may_show_objects(self):
        heads = tiny("mask_rcnn", rois_per_image=32).roi_heads
        _, target = scene()
        proposals = torch.cat([target["boxes"].repeat(50, 1), random_boxes(100, 20, 20)])
        labels = heads.select_training_samples(proposals, target, 0, SHAPE).labels
        assert len(labels) == 32 and (labels < 3).sum() == 8
        few = heads.select_training_samples(target["boxes"].repeat(50, 1), target, 0, SHAPE).labels
        assert len(few) == 8  # no background to fill up with

    def test_low_quality_matches_are_mask_r_cnn_s(self):
        """One proposal, the best of both objects: the second takes it, though it overlaps the first more."""
        target = dict(boxes=torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 12]]), labels=torch.tensor([0, 1]))
        proposal = torch.tensor([[0.0, 0, 10, 10.5]])
        for head, label in (("mask_rcnn", 1), ("cascade_mask_rcnn", 0)):
            samples = tiny(head).roi_heads.select_training_samples(proposal, target, 0, SHAPE)
            assert samples.labels[~samples.is_gt].tolist() == [label]

    def test_an_image_with_nothing_at_all(self):
        target = scene(boxes=(), labels=())[1]
        samples = tiny("cascade_mask_rcnn").roi_heads.select_training_samples(torch.zeros(0, 4), target, 0, SHAPE)
        assert samples.boxes.tolist() == [[0, 0, 90, 70]] and samples.labels.tolist() == [3]


@pytest.mark.parametrize("head", ["mask_rcnn", "cascade_mask_rcnn"])
def test_no_proposals_no_detections(head):
    model = tiny(head).eval()
    model.rpn.score_thresh = 2.0
    with torch.no_grad():
        (found,) = model([scene()[0]])
    assert found["boxes"].shape == (0, 4) and found["masks"].shape == (0, 1, 70, 90)


class TestRefinement:
    @pytest.mark.parametrize("stage", range(3))
    def test_spelled_out(self, stage):
        """Deltas of the label's class, or for background of the likeliest; the stage's scales; cut at the image."""
        heads = tiny("cascade_mask_rcnn").roi_heads
        torch.manual_seed(0)
        boxes, logits, deltas = random_boxes(9, 60, 50), torch.randn(9, 4), torch.randn(9, 3, 4)
        logits[4, 3] = 9.0  # background wins, but has no box to move to
        labels = torch.tensor([0, 1, 2, 3, 3, 3, 0, 1, 2])
        (got,) = heads.refine_boxes(stage, logits, deltas, [boxes], [SHAPE], labels)
        (unlabelled,) = heads.refine_boxes(stage, logits, deltas, [boxes], [SHAPE])
        for i in range(9):
            likeliest = max(range(3), key=lambda k: logits[i, k].item())
            for result, label in ((got, labels[i].item() if labels[i] < 3 else likeliest), (unlabelled, likeliest)):
                x1, y1, x2, y2 = decode(deltas[i, label].tolist(), boxes[i].tolist(), STDS[stage])
                cut = [min(max(v, 0), side) for v, side in zip((x1, y1, x2, y2), (90, 70, 90, 70), strict=True)]
                assert result[i].tolist() == pytest.approx(cut, abs=1e-3)

    def test_the_next_stage_starts_from_moved_proposals_without_the_objects_own_boxes(self):
        model = tiny("cascade_mask_rcnn").train()
        images, targets = scenes()
        seen, original = [], model.roi_heads.select_training_samples

        def record(proposals, target, stage, shape):
            samples = original(proposals, target, stage, shape)
            seen.append((stage, len(target["boxes"]), len(proposals), int(samples.is_gt.sum()), len(samples.boxes)))
            return samples

        model.roi_heads.select_training_samples = record
        model(images, targets)
        for stage, objects, proposals, given, _ in seen:
            if stage:
                (before,) = [s for s in seen if s[0] == stage - 1 and s[1] == objects]
                assert proposals == before[4] - before[3]
            assert given <= objects

    def test_no_gradient_passes_from_stage_to_stage_by_the_boxes(self):
        model = tiny("cascade_mask_rcnn", masks=False).train()
        images, targets = scenes()
        losses = model(images, targets)
        losses["loss_box_reg_3"].backward()
        grads = [head.regress.weight.grad for head in model.roi_heads.box_heads]
        assert grads[0] is None and grads[1] is None and grads[2] is not None

    @pytest.mark.parametrize("average", ["logits", "probabilities"])
    def test_scores_are_averaged_over_the_stages(self, average):
        unfiltered = dict(score_threshold=-1.0, nms_threshold=1.0, detections=10**6)
        model = tiny("cascade_mask_rcnn", score_average=average, masks=False, **unfiltered)
        heads = model.eval().roi_heads
        outputs: list[torch.Tensor] = []
        for head in heads.box_heads:
            nn.init.normal_(head.classify.weight, std=0.5)
            head.register_forward_hook(lambda module, args, out: outputs.append(out[0]))
        with torch.no_grad():
            found = model([scene()[0]])[0]
        if average == "logits":
            expected = torch.stack(outputs).mean(0).softmax(1)
        else:
            expected = torch.stack(outputs).softmax(2).mean(0)
        assert len(outputs) == 3
        highest = expected[:, :3].flatten().sort(descending=True).values[:20]
        torch.testing.assert_close(found["scores"][:20], highest, rtol=1e-4, atol=1e-6)

    def test_masks_are_averaged_over_the_stages(self):
        model = tiny("cascade_mask_rcnn", detections=4, score_threshold=0.0).eval()
        logits: list[torch.Tensor] = []
        answers: list[tuple] = []
        for head in model.roi_heads.mask_heads:
            head.register_forward_hook(lambda module, args, out: logits.append(out))
        model.roi_heads.register_forward_hook(
            lambda module, args, out: answers.append((out[0][0]["masks"].clone(), out[0][0]["labels"]))
        )
        with torch.no_grad():
            model([scene()[0]])
        ((masks, labels),) = answers
        expected = sum(stage[range(4), labels].sigmoid() for stage in logits) / 3
        assert len(logits) == 3 and masks.shape == (4, 1, 28, 28)
        torch.testing.assert_close(masks[:, 0], expected)

    def test_stage_weights(self):
        images, targets = scenes()
        losses = []
        for weights in ((1.0, 1.0, 1.0), (1.0, 0.5, 0.25)):
            model = tiny("cascade_mask_rcnn", stage_weights=weights, rpn_batch=10**6, rois_per_image=10**6)
            losses.append(model.train()(images, targets))
        for name, value in losses[0].items():
            share = {"1": 1.0, "2": 0.5, "3": 0.25}.get(name[-1], 1.0)
            torch.testing.assert_close(losses[1][name], share * value)


def test_the_paper_s_numbers():
    """The defaults, number by number."""
    retina, mask, cascade = RetinaNetOptions(), MaskRCNNOptions(), CascadeMaskRCNNOptions()
    assert (retina.octave_base, retina.octave_scales, retina.anchor_ratios) == (4, 3, (0.5, 1.0, 2.0))
    assert (retina.score_threshold, retina.nms_threshold, retina.detections) == (0.05, 0.5, 100)
    assert (retina.p6_source, retina.p6_relu, retina.normalise_by, retina.convs) == ("c5", False, "batch", 4)
    assert (mask.anchor_scales, mask.aligned, mask.sampling_ratio) == ((8.0,), True, 0)
    assert (mask.box_loss, mask.box_weight, mask.box_stds) == ("l1", 1.0, STDS[:1])
    assert (cascade.stages, cascade.stage_weights) == ((0.5, 0.6, 0.7), (1.0, 0.5, 0.25))
    assert (cascade.box_loss, cascade.box_weight, cascade.box_stds) == ("giou", 10.0, STDS)
    assert (mask.rpn_beta, cascade.rpn_beta) == (0.0, 1 / 9)
    assert (mask.post_nms, cascade.post_nms) == ((1000, 1000), (2000, 1000))


def test_the_paper_s_sizes():
    with torch.device("meta"):
        mask, cascade = (rmt.detector(head, "rmt_small", 80).roi_heads for head in ("mask_rcnn", "cascade_mask_rcnn"))
    (head,) = mask.box_heads
    assert [(m.in_features, m.out_features) for m in head.modules() if isinstance(m, nn.Linear)] == [
        (256 * 49, 1024), (1024, 1024), (1024, 81), (1024, 320),
    ]  # fmt: skip
    assert len(cascade.box_heads) == len(cascade.mask_heads) == 3
    for head in cascade.box_heads:
        convs = [m for m in head.modules() if isinstance(m, nn.Conv2d)]
        assert [(c.out_channels, c.kernel_size, c.bias) for c in convs] == [(256, (3, 3), None)] * 4
        assert sum(isinstance(m, nn.BatchNorm2d) for m in head.modules()) == 4
        assert [m.out_features for m in head.modules() if isinstance(m, nn.Linear)] == [1024, 81, 320]
    for head in (*mask.mask_heads, *cascade.mask_heads):
        assert [m.kernel_size for m in head.modules() if isinstance(m, nn.Conv2d)] == [(3, 3)] * 4 + [(1, 1)]
        assert head[1].mask_fcn_logits.out_channels == 80
    assert (mask.box_roi_pool.output_size, mask.mask_roi_pool.output_size) == (7, 14)


def test_the_box_heads_norms_are_synchronised_with_the_backbone_s():
    """By the trainer, on several devices; names and values stay."""
    model = tiny("cascade_mask_rcnn")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    norms = sum(type(m) is nn.BatchNorm2d for m in model.modules())
    synced = convert_sync_batchnorm(model, torch.device("cpu"))
    assert sum(isinstance(m, CPUSyncBatchNorm2d) for m in synced.modules()) == norms == 4 * 3 + 7
    assert before.keys() == synced.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in synced.state_dict().items())


def test_torchvision_s_mask_r_cnn_is_a_matter_of_options():
    """With their options and the same weights, our detections are those of torchvision's own network."""
    ours = tiny(
        "mask_rcnn", round_anchors=True, aligned=False, sampling_ratio=2, score_threshold=0.1, mask_threshold=None
    ).eval()
    sizes = tuple((8 * stride,) for stride in (4, 8, 16, 32, 64))
    theirs = tv.MaskRCNN(
        ours.backbone,
        rpn_anchor_generator=tv.anchor_utils.AnchorGenerator(sizes, ((0.5, 1, 2),) * 5),
        box_head=tv.faster_rcnn.TwoMLPHead(16 * 49, 32),
        box_predictor=tv.faster_rcnn.FastRCNNPredictor(32, 4),
        mask_head=tv.mask_rcnn.MaskRCNNHeads(16, [16] * 4, 1),
        mask_predictor=tv.mask_rcnn.MaskRCNNPredictor(16, 16, 4),
        box_score_thresh=0.1,
        min_size=64,
        max_size=128,
    )
    head = ours.roi_heads.box_heads[0]
    with torch.no_grad():
        for linear in (head.classify, head.regress):
            nn.init.normal_(linear.weight, std=0.2)
        theirs.rpn.head.load_state_dict(ours.rpn.head.state_dict())
        box = theirs.roi_heads
        box.box_head.fc6.load_state_dict(head.shared[1].state_dict())
        box.box_head.fc7.load_state_dict(head.shared[3].state_dict())
        order = [3, 0, 1, 2]  # background comes first there
        box.box_predictor.cls_score.weight.copy_(head.classify.weight[order])
        box.box_predictor.cls_score.bias.copy_(head.classify.bias[order])
        box.box_predictor.bbox_pred.weight[4:] = head.regress.weight
        box.box_predictor.bbox_pred.bias[4:] = head.regress.bias
        image = torch.rand(3, 64, 128)  # a multiple of every stride: their strides are then whole
        (got,), (expected,) = ours([image]), theirs.eval()([image])
    assert len(got["scores"]) > 10
    torch.testing.assert_close(got["scores"], expected["scores"])
    torch.testing.assert_close(got["boxes"], expected["boxes"])
    assert torch.equal(got["labels"] + 1, expected["labels"])
    assert got["masks"].dtype == expected["masks"].dtype and got["masks"].shape == expected["masks"].shape
