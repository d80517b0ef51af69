"""Semantic segmentation network: pyramid, decode head and loss."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rmt.errors import RMTError
from rmt.heads.pyramid import Pyramid, build_pyramid
from rmt.heads.segmentation.decode_heads import SemanticFPN, UPerNet, resize
from rmt.heads.segmentation.losses import SegmentationLoss
from rmt.model import RMT

#: Name, as `rmt.segmenter` takes it -> class of the head. It is called with the channels of the four feature maps, the
#: number of classes K, and `head_args`; see `SemanticFPN` for what it takes and returns. You can add entries.
HEADS: dict[str, type[nn.Module]] = {"semantic_fpn": SemanticFPN, "upernet": UPerNet}
CROSS_ENTROPY = SegmentationLoss()


class Segmenter(nn.Module):
    """Images (B, 3, H, W) to logits (B, K, H, W), any H and W from 32 up.

    Args:
        pyramid: the normalised stages.
        head: feature maps to a list of logits: those of the head, then in training those of auxiliary heads.
        num_classes: number of classes K.
        aux_weight: weight of each auxiliary loss.
    """

    head_name: str  # this and the next are set by `rmt.segmenter`, for model files
    head_args: dict[str, Any]

    def __init__(self, pyramid: Pyramid, head: nn.Module, num_classes: int, aux_weight: float = 0.4) -> None:
        super().__init__()
        self.pyramid = pyramid
        self.head = head
        self.num_classes = num_classes
        self.aux_weight = aux_weight

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) to the logits of each pixel, (B, K, H, W)."""
        return resize(self.head(self.pyramid(x))[0], x.shape[2:])

    def loss(
        self, x: Tensor, masks: Tensor, criterion: Callable[[Tensor, Tensor], Tensor] = CROSS_ENTROPY
    ) -> dict[str, Tensor]:
        """The loss at the size of the masks: by default cross-entropy, averaged over all pixels, ignored ones included.

        Args:
            x: images (B, 3, H, W).
            masks: class indices (B, H, W), int64; 255 is ignored.
            criterion: logits (B, K, H, W) and masks to a loss, see `SegmentationLoss`.
        Returns:
            `loss`, the weighted sum, and its parts `main` and `aux` (in training, if there is an auxiliary head). If
            all pixels are ignored it is 0, not NaN.
        """
        logits = self.head(self.pyramid(x))
        parts = [criterion(resize(part, masks.shape[1:]), masks) for part in logits]
        total = parts[0] + self.aux_weight * torch.stack(parts[1:]).sum() if len(parts) > 1 else parts[0]
        return {"loss": total} | dict(zip(("main", "aux"), parts, strict=False))


def segmenter(
    head: str,
    backbone: str | RMT = "rmt_small",
    num_classes: int = 150,
    *,
    drop_path_rate: float = 0.0,
    head_args: dict[str, Any] | None = None,
    **backbone_args: Any,
) -> Segmenter:
    """Build a segmenter: `rmt.segmenter("upernet", backbone="rmt_base", num_classes=150)`.

    Args:
        head: a name in `rmt.heads.segmentation.HEADS`: "semantic_fpn" or "upernet".
        backbone: name of a network, or a network; its classifier is removed.
        num_classes: number of classes K.
        drop_path_rate: stochastic depth of a backbone given by name.
        head_args: channels and dropout, see `SemanticFPN` and `UPerNet`.
        backbone_args: more keywords for a backbone given by name.
    Raises:
        RMTError: no such head or network.
    """
    if head not in HEADS:
        raise RMTError(f"no segmentation head named {head!r}; choose one of {', '.join(HEADS)}")
    pyramid = build_pyramid(backbone, drop_path_rate=drop_path_rate, **backbone_args)
    model = Segmenter(pyramid, HEADS[head](pyramid.channels, num_classes, **(head_args or {})), num_classes)
    model.head_name, model.head_args = head, dict(head_args or {})
    return model
