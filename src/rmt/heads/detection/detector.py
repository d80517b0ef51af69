"""`rmt.detector`: a detector by name, its weights and its file."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from rmt.errors import RMTError
from rmt.heads.detection.networks import MaskRCNN, RetinaNet
from rmt.heads.detection.options import CascadeMaskRCNNOptions, DetectorOptions, MaskRCNNOptions, RetinaNetOptions
from rmt.heads.pyramid import build_pyramid
from rmt.model import RMT

DETECTORS: dict[str, tuple[type[RetinaNet] | type[MaskRCNN], type[DetectorOptions]]] = {
    "retinanet": (RetinaNet, RetinaNetOptions),
    "mask_rcnn": (MaskRCNN, MaskRCNNOptions),
    "cascade_mask_rcnn": (MaskRCNN, CascadeMaskRCNNOptions),
}


def detector(
    head: str,
    backbone: str | RMT = "rmt_small",
    num_classes: int = 80,
    *,
    drop_path_rate: float = 0.0,
    freeze_bn: bool = False,
    backbone_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> RetinaNet | MaskRCNN:
    """Build a detector: `rmt.detector("cascade_mask_rcnn", backbone="rmt_small", num_classes=80)`.

    It is used as torchvision's detectors are. Images are a list of (3, H, W), RGB in 0…1 (or uint8), of any sizes; the
    detector normalises and pads them and resizes nothing, so that boxes are always in the pixels of the given images.

    - Training: `losses = model(images, targets)`, a dict of scalars to be summed, their weights already applied.
      Targets are a list of dicts: `boxes` (N, 4) x1 y1 x2 y2, `labels` (N,) int64 from **0 to K − 1**, and for masks
      `masks` (N, H, W) of 0 and 1. N may be 0.
    - Evaluation: `model(images)`, a list of dicts, best first: `boxes` (N, 4), `labels` (N,), `scores` (N,), and
      `masks` (N, 1, H, W), boolean.

    Unlike torchvision's, labels have no place for background, whether it is RetinaNet or not.

    Args:
        head: "retinanet", "mask_rcnn" or "cascade_mask_rcnn".
        backbone: a network's name, or the network; its classifier is dropped.
        num_classes: K.
        drop_path_rate: stochastic depth of a backbone given by name; the paper has `rmt.model.MAX_DROP_PATH`.
        freeze_bn: keep the statistics of the backbone's BatchNorms in training, as the released code means to do
            (but does not: METHOD 6).
        backbone_args: more keywords for a backbone given by name.
        options: see `RetinaNetOptions`, `MaskRCNNOptions` and `CascadeMaskRCNNOptions`. The defaults are the paper's.
    Raises:
        RMTError: no such detector, network or option.
    """
    if head not in DETECTORS:
        raise RMTError(f"no detector named {head!r}; choose one of {', '.join(DETECTORS)}")
    network, options_class = DETECTORS[head]
    known = [field.name for field in fields(options_class)]
    for name in options:
        if name not in known:
            raise RMTError(f"{head} has no option {name!r}; choose from {', '.join(known)}")
    if num_classes < 1:
        raise RMTError(f"num_classes must be at least 1, not {num_classes}")
    pyramid = build_pyramid(
        backbone,
        drop_path_rate=drop_path_rate,
        first=1 if head == "retinanet" else 0,
        freeze_bn=freeze_bn,
        **(backbone_args or {}),
    )
    chosen = options_class(**options)
    model = network(pyramid, num_classes, chosen)  # type: ignore[arg-type]
    model.head_name, model.head_args = head, {**asdict(chosen), "freeze_bn": freeze_bn}
    return model
