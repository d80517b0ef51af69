"""RMT inside stock configs of OpenMMLab's maintained forks, and our detectors against theirs, weight for weight.

Needs an environment of its own: `make test-openmmlab`. Only the last test runs without one.
"""

import importlib.util
import sys

import pytest
import torch
from integrations.openmmlab_configs import CHANNELS, DETECTORS, SEGMENTERS, build, config, mmdet_batch

import rmt

HAVE = importlib.util.find_spec("mmdet") is not None
openmmlab = pytest.mark.openmmlab


@openmmlab
@pytest.mark.parametrize("head", DETECTORS)
def test_stock_mmdet_configs(head):
    from helpers.detectors import scenes

    model = build("mmdet", config("mmdet", DETECTORS[head]))
    assert type(model.backbone).__name__ == "RMTBackbone"
    images, targets = scenes()
    images = [(image * 255).to(torch.uint8) for image in images]
    data = model.data_preprocessor(mmdet_batch(images, targets), training=True)
    losses = model.train()(**data, mode="loss")
    total = sum(sum(v) if isinstance(v, list) else v for k, v in losses.items() if "loss" in k)
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None for n, p in model.backbone.named_parameters() if ".norms.0." not in n)
    with torch.no_grad():
        found = model.eval().test_step(mmdet_batch(images, targets))
    assert len(found) == 2 and found[0].pred_instances.bboxes.shape[1] == 4


@openmmlab
@pytest.mark.parametrize("head", SEGMENTERS)
def test_stock_mmseg_configs(head):
    cfg = config("mmseg", SEGMENTERS[head])
    decode = cfg.model.decode_head
    cfg.model.data_preprocessor.size = (64, 64)
    with pytest.raises(rmt.RMTError, match="open-mmlab://resnet50_v1c' is not for RMT: set model.pretrained=None"):
        build("mmseg", config("mmseg", SEGMENTERS[head]))
    cfg.model.pretrained = None
    for part in (decode, cfg.model.get("auxiliary_head")):  # no process group on one CPU
        if part is not None:
            part.norm_cfg = dict(type="BN")
    if head == "upernet":
        decode.in_channels = CHANNELS
        cfg.model.auxiliary_head.in_channels = CHANNELS[2]
    model = build("mmseg", cfg)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64)))
    sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, 64, 64)))
    batch = dict(inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)] * 2, data_samples=[sample] * 2)
    data = model.data_preprocessor(batch, training=True)
    losses = model.train()(**data, mode="loss")
    total = sum(v for k, v in losses.items() if "loss" in k)
    total.backward()
    assert total.isfinite()
    with torch.no_grad():
        assert model.eval()(data["inputs"], mode="tensor").shape[:2] == (2, 150)


@openmmlab
def test_the_backbone_s_options(tmp_path):
    from integrations import mmcv_ext

    mmcv_ext.install()
    from mmengine.registry import MODELS

    import rmt.integrations.openmmlab

    torch.manual_seed(3)
    classifier = rmt.create_model("rmt_pico")
    rmt.save_checkpoint(classifier, tmp_path / "c.safetensors")
    by_init_cfg = dict(init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "c.safetensors")))
    for how in (dict(checkpoint=str(tmp_path / "c.safetensors")), by_init_cfg):
        backbone = MODELS.build(dict(type="RMT", arch="rmt_pico", out_indices=(1, 3), norm_eval=True, **how))
        backbone.init_weights()
        assert torch.equal(backbone.pyramid.backbone.stem[0].weight, classifier.stem[0].weight)
        backbone.train()
        assert not backbone.pyramid.backbone.stem[1].training
        x = torch.rand(1, 3, 64, 96)
        maps = backbone(x)
        assert [tuple(m.shape) for m in maps] == [(1, 64, 8, 12), (1, 192, 2, 3)]
    checkpointed = MODELS.build(dict(type="RMT", arch="rmt_pico", with_cp=True))
    assert all(stage.grad_checkpointing for stage in checkpointed.pyramid.backbone.stages)
    assert MODELS.build(dict(type="RMT", arch="rmt_pico", drop_path_rate=0.3)).pyramid.backbone.model_args
    with pytest.raises(rmt.RMTError, match="not ascending stages"):
        MODELS.build(dict(type="RMT", arch="rmt_pico", out_indices=(3, 1)))


@pytest.mark.skipif(HAVE, reason="mmengine is there")
def test_without_mmengine_one_line_says_what_to_install():
    sys.modules.pop("rmt.integrations.openmmlab", None)
    with pytest.raises(rmt.RMTError, match="pip install onedl-mmengine"):
        importlib.import_module("rmt.integrations.openmmlab")
