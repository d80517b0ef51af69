"""Stock configs of OpenMMLab's forks with `rmt_pico` as their backbone, and our images in their clothes."""

import importlib
from pathlib import Path

from integrations import mmcv_ext

CHANNELS = [32, 64, 128, 192]  # of rmt_pico


def config(library: str, name: str):
    """A stock config with `rmt_pico` as its backbone, by the overrides that the module's docstring shows."""
    mmcv_ext.install()
    from mmengine.config import Config

    library_path = importlib.import_module(library).__path__[0]
    cfg = Config.fromfile(Path(library_path) / ".mim" / "configs" / name)
    cfg.merge_from_dict(
        dict(
            custom_imports=dict(imports=["rmt.integrations.openmmlab"]),
            model=dict(backbone=dict(_delete_=True, type="RMT", arch="rmt_pico")),
        )
    )
    if "neck" in cfg.model:
        cfg.model.neck.in_channels = CHANNELS
    return cfg


def build(library: str, cfg):
    """What their runner does: a registry scope, the custom imports, the model, its initial weights."""
    from mmengine.registry import init_default_scope
    from mmengine.utils import import_modules_from_strings

    importlib.import_module(library + ".models")
    import_modules_from_strings(**cfg.custom_imports)
    init_default_scope(library)
    model = importlib.import_module(library + ".registry").MODELS.build(cfg.model)
    model.init_weights()
    return model


DETECTORS = {
    "retinanet": "retinanet/retinanet_r50_fpn_1x_coco.py",
    "mask_rcnn": "mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "cascade_mask_rcnn": "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
}
SEGMENTERS = {
    "upernet": "upernet/upernet_r50_4xb4-160k_ade20k-512x512.py",
    "semantic_fpn": "sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py",
}


def mmdet_batch(images, targets):
    """Our images and targets in MMDetection's clothes: normalised by its preprocessor, BGR bytes."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    samples = []
    for image, target in zip(images, targets, strict=True):
        height, width = image.shape[1:]
        sample = DetDataSample(
            metainfo=dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0))
        )
        masks = BitmapMasks(target["masks"].numpy(), height, width)
        sample.gt_instances = InstanceData(bboxes=target["boxes"], labels=target["labels"], masks=masks)
        samples.append(sample)
    return dict(inputs=[image.flip(0) for image in images], data_samples=samples)  # RGB to BGR
