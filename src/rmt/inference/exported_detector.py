"""A detector around an exported graph: what is left to do depends on the detector.

RetinaNet's graph has backbone, pyramid and heads; PyTorch decodes and suppresses. That of a two-stage detector returns
detections; PyTorch cuts them off at the image and pastes the masks.
"""

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image

from rmt.errors import RMTError
from rmt.heads import RetinaNet, build_from_metadata
from rmt.inference.exported import ExportedRuntime, one_line_errors
from rmt.inference.runtime import Images
from rmt.model.checkpoints import building_from


class ExportedDetector:
    """A `Runtime` whose detector calls an exported graph in place of its networks.

    Images that are smaller than a fixed graph are padded, as in a batch with a larger image.

    Args:
        runtime: the graph, images (B, 3, H, W) to the outputs of `DenseDetector` or `TwoStageDetector` in `rmt.export`.
        metadata: of the file, from which the detector around it is built.
    Raises:
        RMTError: the file has other outputs than its detector.
    """

    device: torch.device
    precision: str
    num_classes: int

    def __init__(self, runtime: ExportedRuntime, metadata: dict[str, Any]) -> None:
        self.device, self.precision, self.num_classes = runtime.device, runtime.precision, runtime.num_classes
        with building_from(runtime.path):
            model: Any = build_from_metadata(metadata)
        self.path = runtime.path
        graph = _Graph(runtime, model.backbone.strides)
        model.backbone = graph
        if isinstance(model, RetinaNet):
            needed = ["cls_logits", "bbox_regression"]
            model.head = _Head(graph)
        else:
            needed = ["boxes", "scores", "labels", *(["masks"] if model.options.predicts_masks else [])]
            model.rpn, model.roi_heads = _NoRegions(), _Detections(graph, model.options.score_threshold)
        if missing := [name for name in needed if name not in runtime.outputs]:
            raise RMTError(f"{runtime.path} has no output {missing[0]}; export it again with rmt export")
        self.model: nn.Module = model.eval()

    @torch.inference_mode()
    def __call__(self, images: Images, **arguments: Any) -> Any:
        with one_line_errors(self.path):  # outputs of other shapes than a detector's
            return self.model(list(images), **arguments)


class _Graph(nn.Module):
    """Runs the graph. Returns empty feature maps, whose sizes tell torchvision where the anchors are."""

    def __init__(self, runtime: ExportedRuntime, strides: list[int]) -> None:
        super().__init__()
        self.runtime, self.strides = runtime, strides
        self.outputs: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        height, width = images.shape[2:]
        if self.runtime.shape[2] and self.runtime.shape[3]:
            missing = (self.runtime.shape[3] - width, self.runtime.shape[2] - height)
            if min(missing) >= 0:
                images = F.pad(images, (0, missing[0], 0, missing[1]))
        self.outputs = self.runtime.named_outputs(images)
        if (logits := self.outputs.get("cls_logits")) is not None:
            self.runtime.check_classes(logits.shape[-1])
        elif (labels := self.outputs["labels"]).numel() and labels.max() >= self.runtime.num_classes:
            self.runtime.check_classes(int(labels.max()) + 1)
        height, width = images.shape[2:]
        sizes = [(-(-height // stride), -(-width // stride)) for stride in self.strides]
        return OrderedDict((str(i), images.new_empty(len(images), 0, *size)) for i, size in enumerate(sizes))


class _Head(nn.Module):
    """The outputs of the graph that has just run."""

    def __init__(self, graph: _Graph) -> None:
        super().__init__()
        self.graph = [graph]  # in a list, so that it is not a submodule twice

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        return self.graph[0].outputs


class _NoRegions(nn.Module):
    """In place of the RPN, which is in the graph."""

    def forward(self, images: ImageList, maps: Any, targets: Any = None) -> tuple[list[Tensor], dict[str, Tensor]]:
        return [], {}


class _Detections(nn.Module):
    """In place of the RoI heads: the detections of the graph that has just run, cut off at the image."""

    def __init__(self, graph: _Graph, threshold: float) -> None:
        super().__init__()
        self.graph, self.threshold = [graph], threshold

    def forward(
        self, maps: Any, regions: Any, shapes: list[tuple[int, int]], targets: Any = None
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        outputs = self.graph[0].outputs
        detections = []
        for i, shape in enumerate(shapes):
            found = {name: value[i] for name, value in outputs.items()}
            boxes = clip_boxes_to_image(found["boxes"], shape)
            kept = (found["scores"] > max(self.threshold, -0.5)) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            detection = {"boxes": boxes[kept], "scores": found["scores"][kept], "labels": found["labels"][kept].long()}
            if "masks" in found:
                detection["masks"] = found["masks"][kept][:, None]
            detections.append(detection)
        return detections, {}
