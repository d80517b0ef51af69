"""RMT as a backbone in the configs of OpenMMLab: MMDetection, MMSegmentation and others based on mmengine.

Importing this module registers `RMT` in the root registry of mmengine, which all OpenMMLab libraries use:

    custom_imports = dict(imports=["rmt.integrations.openmmlab"])
    model = dict(
        backbone=dict(_delete_=True, type="RMT", arch="rmt_small", drop_path_rate=0.15, checkpoint="RMT-S.pth"),
        neck=dict(in_channels=[64, 128, 256, 512]))

The maps are those of `rmt.heads.Pyramid`: each stage has its own LayerNorm. Works with the maintained forks
onedl-mmengine, onedl-mmcv, onedl-mmdetection and onedl-mmsegmentation; `make test-openmmlab` runs the tests.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rmt.errors import RMTError
from rmt.heads.pyramid import Pyramid, build_pyramid

try:
    from mmengine.model import BaseModule
    from mmengine.registry import MODELS
except ImportError as error:
    raise RMTError(f"rmt.integrations.openmmlab needs mmengine ({error}): pip install onedl-mmengine") from error


@MODELS.register_module(name="RMT")
class RMTBackbone(BaseModule):
    """Images (B, 3, H, W) to a tuple of maps (B, Cᵢ, H / 2^(i+2), W / 2^(i+2)), i in `out_indices`.

    Args:
        arch: name of a network with four stages, see `rmt.list_models()`.
        out_indices: stages to return, ascending, from 0.
        drop_path_rate: stochastic depth; `rmt.model.MAX_DROP_PATH` has the paper's rates.
        checkpoint: a classifier, detector or segmenter, ours or the authors', whose backbone is loaded by
            `init_weights`, which the runner of mmengine calls. `init_cfg=dict(type="Pretrained", checkpoint=…)` does
            the same.
        norm_eval: keep the statistics of BatchNorms fixed in training.
        with_cp: activation checkpointing, keep only the inputs of blocks for the backward pass.
        pretrained: must be None. MMSegmentation's configs pass a ResNet's: set `model.pretrained=None` and give a
            `checkpoint`.
        kwargs: more keywords of `rmt.create_model`.
    """

    def __init__(
        self,
        arch: str = "rmt_small",
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        checkpoint: str | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        pretrained: str | None = None,
        init_cfg: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        from_file = (init_cfg or {}).get("type") == "Pretrained"
        super().__init__(init_cfg=None if from_file else init_cfg)
        if pretrained is not None:
            raise RMTError(
                f"pretrained={pretrained!r} is not for RMT: set model.pretrained=None, backbone.checkpoint=FILE"
            )
        if list(out_indices) != sorted(set(out_indices) & {0, 1, 2, 3}) or not out_indices:
            raise RMTError(f"out_indices={tuple(out_indices)!r} must be ascending stage indices from 0 to 3")
        self.checkpoint: str | None = checkpoint or (init_cfg or {}).get("checkpoint")
        self.pyramid: Pyramid = build_pyramid(
            arch, drop_path_rate=drop_path_rate, first=out_indices[0], freeze_bn=norm_eval, **kwargs
        )
        self.pyramid.backbone.set_grad_checkpointing(with_cp)
        self.selected: list[int] = [i - out_indices[0] for i in out_indices]

    def init_weights(self) -> None:
        super().init_weights()
        if self.checkpoint is not None:
            self.pyramid.load_backbone(self.checkpoint)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        maps = self.pyramid(x)
        return tuple(maps[i] for i in self.selected)
