"""The feature pyramid of detectors and segmenters: the stages of the backbone, each with its own LayerNorm."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from rmt.errors import RMTError
from rmt.model import RMT, create_model, resolve_checkpoint
from rmt.model.checkpoints import load_state_dict
from rmt.model.state_dicts import check_fit, read_state_dict, unwrap


class Pyramid(nn.Module):
    """Images (B, 3, H, W) to feature maps of strides 4, 8, 16, 32, each normalised by a LayerNorm over channels.

    The eps of the norms is 1e-5, as in the authors' detection code, unlike 1e-6 in the blocks. Their names in the
    authors' files are `backbone.extra_norms.I`.

    Args:
        backbone: a network of `rmt.create_model`; its classifier is removed.
        first: index of the first stage to return, from 0; RetinaNet uses 1 (stride 8).
        freeze_bn: the backbone's BatchNorms use their running statistics in training and do not update them.
    """

    def __init__(self, backbone: RMT, first: int = 0, freeze_bn: bool = False) -> None:
        super().__init__()
        if freeze_bn:
            backbone.freeze_batchnorm()
        backbone.prune_intermediate_layers([len(backbone.stages) - 1])
        self.backbone = backbone
        self.indices = list(range(first, len(backbone.stages)))
        self.channels = [backbone.feature_info[i]["num_chs"] for i in self.indices]
        self.strides = [backbone.feature_info[i]["reduction"] for i in self.indices]
        self.norms = nn.ModuleList(LayerNorm2d(channels, eps=1e-5) for channels in self.channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.backbone.forward_intermediates(x, indices=self.indices, intermediates_only=True)
        return [norm(m) for norm, m in zip(self.norms, maps, strict=True)]

    def load_backbone(self, source: str | Path | Mapping[str, Any]) -> list[str]:
        """Load the weights of a classifier, ours or the authors', or the backbone and norms of a detector or segmenter.

        Args:
            source: a file, a run folder, or the content of a file.
        Returns:
            names of the norms that the file does not contain (a classifier has none); they keep their initial values.
        Raises:
            RMTError: names or shapes do not match.
        """
        name = "the state dict" if isinstance(source, Mapping) else str(source)
        state = unwrap(source) if isinstance(source, Mapping) else read_state_dict(resolve_checkpoint(source))
        own = {
            f"extra_norms.{stage}.{kind}": value
            for stage, norm in zip(self.indices, self.norms, strict=True)
            for kind, value in norm.state_dict().items()
        }
        if has_norms := any(key.startswith("extra_norms.") for key in state):
            check_fit(own, {key: value for key, value in state.items() if key in own}, name)
        load_state_dict(self.backbone, {k: v for k, v in state.items() if not k.startswith("extra_norms.")}, name)
        if has_norms:
            for key, value in own.items():
                value.copy_(state[key])
        return [] if has_norms else [f"norms.{i}" for i in range(len(self.norms))]

    load_official = load_backbone  # earlier name


def build_pyramid(
    backbone: str | RMT, *, drop_path_rate: float | None = None, first: int = 0, freeze_bn: bool = False, **kwargs: Any
) -> Pyramid:
    """Build a pyramid on a network, given as a module or by its name; `kwargs` are for `rmt.create_model`."""
    if isinstance(backbone, str):
        if drop_path_rate is not None:
            kwargs["drop_path_rate"] = drop_path_rate
        backbone = create_model(backbone, **kwargs)
    if len(backbone.stages) != 4:
        raise RMTError(f"a pyramid needs a network of four stages, this one has {len(backbone.stages)}")
    return Pyramid(backbone, first, freeze_bn)
