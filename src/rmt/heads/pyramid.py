"""The feature pyramid of detectors and segmenters: the stages of the backbone, each with its own LayerNorm."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from rmt.errors import RMTError
from rmt.model import RMT, create_model, resolve_checkpoint
from rmt.model.checkpoints import load_state_dict
from rmt.model.networks import check_name, create_network
from rmt.model.state_dicts import check_fit, one_line, read_state_dict, unwrap
from rmt.model.timm_networks import BUILD_ERRORS, network_name, use_running_statistics
from rmt.model.variants import ARCHITECTURES


class Pyramid(nn.Module):
    """Images (B, 3, H, W) to feature maps of strides 4, 8, 16, 32, each normalised by a LayerNorm over channels.

    The eps of the norms is 1e-5, as in the authors' detection code, unlike 1e-6 in the blocks. Their names in the
    authors' files are `backbone.extra_norms.I`.

    Args:
        backbone: a network of `rmt.create_model`, or one of timm's with levels of these strides and
            `forward_intermediates`; its classifier, and what else is above the last level, is removed.
        first: index of the first stage to return, from 0; RetinaNet uses 1 (stride 8).
        freeze_bn: the backbone's BatchNorms use their running statistics in training and do not update them.
    """

    def __init__(self, backbone: Any, first: int = 0, freeze_bn: bool = False) -> None:
        super().__init__()
        self.freezes_batchnorm: bool = freeze_bn and not isinstance(backbone, RMT)  # ours remembers it itself
        if freeze_bn and isinstance(backbone, RMT):
            backbone.freeze_batchnorm()
        levels = _levels(backbone)
        backbone.prune_intermediate_layers([levels[-1]], prune_norm=True)
        self.backbone = backbone
        self.indices: list[int] = levels[first:]
        self.channels: list[int] = [backbone.feature_info[i]["num_chs"] for i in self.indices]
        self.strides: list[int] = [backbone.feature_info[i]["reduction"] for i in self.indices]
        self.norms: nn.ModuleList = nn.ModuleList(LayerNorm2d(channels, eps=1e-5) for channels in self.channels)
        self.train(self.training)
        if not isinstance(backbone, RMT) and not next(backbone.parameters()).is_meta:
            self._require_any_size()

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`; with `freeze_bn` the backbone's BatchNorms stay in evaluation mode."""
        super().train(mode)
        if self.freezes_batchnorm:
            use_running_statistics(self.backbone)
        return self

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) to maps (B, Cᵢ, ⌈H/s⌉, ⌈W/s⌉) for the strides s = 4, 8, 16, 32, from stage `first` on."""
        height, width = x.shape[2:]
        ours = isinstance(self.backbone, RMT)
        if not ours:  # some of timm's networks need sides that the strides divide
            x = F.pad(x, (0, -width % 32, 0, -height % 32))
        maps = self.backbone.forward_intermediates(x, indices=self.indices, intermediates_only=True)
        if not ours:
            maps = [m[..., : -(-height // s), : -(-width // s)] for m, s in zip(maps, self.strides, strict=True)]
        return [norm(m) for norm, m in zip(self.norms, maps, strict=True)]

    def _require_any_size(self) -> None:
        """Raise RMTError unless images of another shape than timm's lead to maps of these strides."""
        height, width = 96, 160
        training = self.training
        try:
            with torch.no_grad():
                maps = self.eval()(next(self.parameters()).new_zeros(1, 3, height, width))
            found = [tuple(m.shape[1:]) for m in maps]
        except BUILD_ERRORS as error:
            raise RMTError(
                f"{network_name(self.backbone)} does not take images of any size, which a detector or segmenter needs: "
                f"{one_line(error)}"
            ) from error
        wanted = [(c, height // s, width // s) for c, s in zip(self.channels, self.strides, strict=True)]
        if found != wanted:
            raise RMTError(
                f"{network_name(self.backbone)} has no pyramid of strides 4, 8, 16, 32: its maps are {found}"
            )
        self.train(training)

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
            for stage, norm in zip(range(4 - len(self.norms), 4), self.norms, strict=True)
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
    backbone: Any, *, drop_path_rate: float | None = None, first: int = 0, freeze_bn: bool = False, **kwargs: Any
) -> Pyramid:
    """Build a pyramid on a network.

    Args:
        backbone: a network, or the name of one of this package or of timm.
        drop_path_rate: stochastic depth of a network given by name.
        first, freeze_bn: see `Pyramid`.
        kwargs: further keywords of a network given by name.
    Raises:
        RMTError: no network of that name, or one without maps of strides 4, 8, 16 and 32.
    """
    if isinstance(backbone, str):
        if drop_path_rate is not None:
            kwargs["drop_path_rate"] = drop_path_rate
        check_name(backbone)
        ours = backbone in ARCHITECTURES
        backbone = create_model(backbone, **kwargs) if ours else create_network(backbone, kwargs)
    return Pyramid(backbone, first, freeze_bn)


def _levels(backbone: Any) -> list[int]:
    """The indices of the levels of strides 4, 8, 16, 32: of several of one stride the last. Raises RMTError."""
    name = network_name(backbone)
    strides = [info["reduction"] for info in getattr(backbone, "feature_info", [])]
    if isinstance(backbone, RMT) and len(strides) != 4:
        raise RMTError(f"a pyramid needs a network of four stages, this one has {len(strides)}")
    if not {4, 8, 16, 32} <= set(strides):
        found = ", ".join(map(str, sorted(set(strides)))) or "none"
        raise RMTError(
            f"{name} has no pyramid of strides 4, 8, 16, 32, which a detector or segmenter needs: it has {found}"
        )
    if not hasattr(backbone, "forward_intermediates") or not hasattr(backbone, "prune_intermediate_layers"):
        raise RMTError(f"{name} does not return its levels (timm's forward_intermediates): take another network")
    return [len(strides) - 1 - strides[::-1].index(stride) for stride in (4, 8, 16, 32)]
