"""From images to the maps that detectors and segmenters read: the backbone's stages, each normalised by itself."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from rmt.errors import RMTError
from rmt.model import RMT, create_model, load_official, resolve_checkpoint
from rmt.model.state_dicts import check_fit, read_state_dict, unwrap


class Pyramid(nn.Module):
    """(B, 3, H, W) to maps of strides 4, 8, 16, 32, each through a LayerNorm over channels of its own.

    The norms' eps is PyTorch's 1e-5, unlike the blocks' 1e-6 (METHOD 6). Their names in the authors' files are
    `backbone.extra_norms.I`.

    Args:
        backbone: a network of ours; its classifier is dropped.
        first: the first stage to return; RetinaNet begins with the second (1).
        freeze_bn: in training too, let the backbone's BatchNorms use and keep the statistics they have.
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

    def load_official(self, source: str | Path | Mapping[str, Any]) -> list[str]:
        """Load a classifier's weights, ours or the authors', or the backbone and norms of a detector or segmenter.

        Args:
            source: a file, a run folder, or the content of a file.
        Returns:
            the norms that kept their own values, since a classifier has none.
        Raises:
            RMTError: the names or shapes do not fit; one line.
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
        load_official(self.backbone, {k: v for k, v in state.items() if not k.startswith("extra_norms.")})
        if has_norms:
            for key, value in own.items():
                value.copy_(state[key])
        return [] if has_norms else [f"norms.{i}" for i in range(len(self.norms))]


def build_pyramid(
    backbone: str | RMT,
    *,
    drop_path_rate: float | None = None,
    first: int = 0,
    freeze_bn: bool = False,
    **kwargs: Any,
) -> Pyramid:
    """A pyramid over a network given by name (with `kwargs` for it) or as such."""
    if isinstance(backbone, str):
        if drop_path_rate is not None:
            kwargs["drop_path_rate"] = drop_path_rate
        backbone = create_model(backbone, **kwargs)
    if len(backbone.stages) != 4:
        raise RMTError(f"a pyramid needs a network of four stages, this one has {len(backbone.stages)}")
    return Pyramid(backbone, first, freeze_bn)
