"""Our detectors and stock MMDetection's with equal weights: equal losses, equal detections. The paper ran theirs.

The configs are the stock ones with the paper's changes. Samplers take everything, so that nothing is random.
"""

import pytest
import torch
from helpers.detectors import scene, scenes, tiny
from integrations.openmmlab_configs import DETECTORS, build, config, mmdet_batch

pytestmark = pytest.mark.openmmlab
EVERYTHING = 10**6
FPN = {"fpn.inner_blocks.{}.0.": "neck.lateral_convs.{}.conv.", "fpn.layer_blocks.{}.0.": "neck.fpn_convs.{}.conv."}


def numbered(names: dict[str, str], count: int) -> dict[str, str]:
    return {ours.format(i): theirs.format(i) for ours, theirs in names.items() for i in range(count)}


def name_map(head: str) -> dict[str, str]:
    """Beginnings of our names to theirs."""
    names = {"backbone.pyramid.": "backbone.pyramid."}
    if head == "retinanet":  # theirs computes stage 1's map and drops it
        names |= {f"backbone.pyramid.norms.{i}.": f"backbone.pyramid.norms.{i + 1}." for i in range(3)}
        names |= {f"backbone.{ours}": theirs for ours, theirs in numbered(FPN, 3).items()}
        names |= {"backbone.fpn.extra_blocks.p6.": "neck.fpn_convs.3.conv."}
        names |= {"backbone.fpn.extra_blocks.p7.": "neck.fpn_convs.4.conv."}
        for i in range(4):
            names[f"head.classification.{2 * i}."] = f"bbox_head.cls_convs.{i}.conv."
            names[f"head.regression.{2 * i}."] = f"bbox_head.reg_convs.{i}.conv."
        return names | {"head.classify.": "bbox_head.retina_cls.", "head.regress.": "bbox_head.retina_reg."}
    names |= {f"backbone.{ours}": theirs for ours, theirs in numbered(FPN, 4).items()}
    names |= {"rpn.head.conv.0.0.": "rpn_head.rpn_conv.", "rpn.head.cls_logits.": "rpn_head.rpn_cls."}
    names |= {"rpn.head.bbox_pred.": "rpn_head.rpn_reg."}
    for stage in range(3 if head == "cascade_mask_rcnn" else 1):
        box, mask = (
            (f"roi_head.bbox_head.{stage}.", f"roi_head.mask_head.{stage}.")
            if head == "cascade_mask_rcnn"
            else ("roi_head.bbox_head.", "roi_head.mask_head.")
        )
        ours, shared = f"roi_heads.box_heads.{stage}.", f"roi_heads.box_heads.{stage}.shared."
        if head == "cascade_mask_rcnn":
            for i in range(4):
                names |= {
                    f"{shared}{i}.0.": f"{box}shared_convs.{i}.conv.",
                    f"{shared}{i}.1.": f"{box}shared_convs.{i}.bn.",
                }
            names |= {f"{shared}5.": f"{box}shared_fcs.0."}
        else:
            names |= {f"{shared}1.": f"{box}shared_fcs.0.", f"{shared}3.": f"{box}shared_fcs.1."}
        names |= {f"{ours}classify.": f"{box}fc_cls.", f"{ours}regress.": f"{box}fc_reg."}
        for i in range(4):
            names[f"roi_heads.mask_heads.{stage}.0.{i}.0."] = f"{mask}convs.{i}.conv."
        names |= {f"roi_heads.mask_heads.{stage}.1.conv5_mask.": f"{mask}upsample."}
        names |= {f"roi_heads.mask_heads.{stage}.1.mask_fcn_logits.": f"{mask}conv_logits."}
    return names


def their_config(head: str):
    """The stock config, the paper's cascade, narrow, three classes."""
    cfg = config("mmdet", DETECTORS[head])
    model = cfg.model
    model.neck.out_channels = 16
    if head == "retinanet":
        model.bbox_head.update(num_classes=3, in_channels=16, feat_channels=16)
        return cfg
    model.rpn_head.update(in_channels=16, feat_channels=16)
    model.train_cfg.rpn.sampler.num = EVERYTHING
    model.train_cfg.rpn.allowed_border = -1  # 0 in the stock cascade; the paper does not say
    for extractor in ("bbox_roi_extractor", "mask_roi_extractor"):
        model.roi_head[extractor].out_channels = 16
    model.roi_head.mask_head.update(in_channels=16, conv_out_channels=16, num_classes=3)
    if head == "mask_rcnn":
        model.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32, num_classes=3)
        model.train_cfg.rcnn.sampler.num = EVERYTHING
        return cfg
    for stage in model.roi_head.bbox_head:
        del stage["loss_bbox"]
        stage.update(
            type="ConvFCBBoxHead", num_shared_convs=4, num_shared_fcs=1, in_channels=16, conv_out_channels=16,
            fc_out_channels=32, num_classes=3, norm_cfg=dict(type="BN"), reg_class_agnostic=False,
            reg_decoded_bbox=True, loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
        )  # fmt: skip
    for stage in model.train_cfg.rcnn:
        stage.sampler.num = EVERYTHING
    return cfg


def both(head: str):
    """Our detector and theirs, with the same weights, no two of them alike."""
    options = {} if head == "retinanet" else dict(rpn_batch=EVERYTHING, rois_per_image=EVERYTHING)
    ours = tiny(head, **options)
    generator = torch.Generator().manual_seed(7)
    for name, p in ours.named_parameters():
        if not name.startswith("backbone.pyramid.backbone."):
            scale = 0.05 if p.ndim > 1 else 0.02
            p.data += scale * torch.randn(p.shape, generator=generator)
    if head == "retinanet":
        ours.head.classify.bias.data += 4  # otherwise nothing passes the threshold
    theirs = build("mmdet", their_config(head))
    names = name_map(head)
    state = {}
    for name, value in ours.state_dict().items():
        prefix = max((n for n in names if name.startswith(n)), key=len)
        state[names[prefix] + name[len(prefix) :]] = value
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and {m for m in missing if not m.startswith("backbone.pyramid.norms.0.")} == set()
    return ours, theirs


ASIDE = torch.tensor([0.13, 0.37, 0.71, 0.29])
"""Moves boxes off the grid: of two anchors that lie alike, rounding would decide which overlaps more."""
PAIR, ALONE = (scene(), scene(80, 96, ((5, 30, 70, 75),), (1,))), (scene(64, 96),)
WITH_EMPTY = (scene(), scene(96, 80, (), ()))


@pytest.mark.parametrize("head", DETECTORS)
def test_losses(head):
    """Images are padded to one size here: theirs takes the anchors beyond an image's own padding out of the loss."""
    ours, theirs = both(head)
    # Theirs counts an image without objects as one positive anchor: much in RetinaNet's few, little in an RPN's many.
    for batch, rtol in ((PAIR, 2e-4), (ALONE, 2e-4)) + ((WITH_EMPTY, 1e-3),) * (head != "retinanet"):
        images, targets = [b[0] for b in batch], [b[1] | dict(boxes=b[1]["boxes"] + ASIDE) for b in batch]
        images = [(image * 255).round().to(torch.uint8) for image in images]
        data = theirs.data_preprocessor(mmdet_batch(images, targets), training=True)
        got, expected = ours.train()(images, targets), theirs.train()(**data, mode="loss")
        expected = {k: sum(v) if isinstance(v, list) else v for k, v in expected.items() if "loss" in k}
        if head == "retinanet":
            pairs = {"classification": "loss_cls", "bbox_regression": "loss_bbox"}
        else:
            pairs = {"loss_objectness": "loss_rpn_cls", "loss_rpn_box_reg": "loss_rpn_bbox"}
            cascade = head == "cascade_mask_rcnn"
            for i in range(3 if cascade else 1):
                before, after = (f"s{i}.", f"_{i + 1}") if cascade else ("", "")
                pairs |= {f"loss_classifier{after}": f"{before}loss_cls", f"loss_box_reg{after}": f"{before}loss_bbox"}
                pairs |= {f"loss_mask{after}": f"{before}loss_mask"}
        assert set(pairs) == set(got) and set(pairs.values()) == set(expected)
        for a, b in pairs.items():
            wanted = expected[b].reshape(())
            torch.testing.assert_close(got[a], wanted, rtol=rtol, atol=1e-5, msg=lambda m, a=a: f"{a}: {m}")


@pytest.mark.parametrize("head", DETECTORS)
def test_detections(head):
    ours, theirs = both(head)
    images = [(image * 255).round().to(torch.uint8) for image in scenes()[0]]
    with torch.no_grad():
        got = ours.eval()(images)
        expected = theirs.eval().test_step(mmdet_batch(images, scenes()[1]))
    for mine, sample in zip(got, expected, strict=True):
        other = sample.pred_instances
        assert len(mine["scores"]) == len(other.scores) > 10
        torch.testing.assert_close(mine["scores"], other.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine["boxes"], other.bboxes, rtol=1e-3, atol=1e-2)
        assert torch.equal(mine["labels"], other.labels)
        if head != "retinanet":
            agree = (mine["masks"][:, 0] == torch.as_tensor(other.masks)).float().mean()
            assert agree > 0.999
