"""RetinaNet around an exported graph: the graph has backbone, pyramid and heads, PyTorch decodes and suppresses."""

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmt.heads import RetinaNet, build_from_metadata
from rmt.inference.exported import ExportedRuntime
from rmt.inference.runtime import Images
from rmt.model.checkpoints import building_from


class ExportedDetector:
    """A `Runtime` whose detector calls an exported graph in place of its backbone and head.

    Images that are smaller than a fixed graph are padded, as in a batch with a larger image.

    Args:
        runtime: the graph, images (B, 3, H, W) to `cls_logits` (B, N, K) and `bbox_regression` (B, N, 4).
        metadata: of the file, from which the detector around it is built.
    """

    def __init__(self, runtime: ExportedRuntime, metadata: dict[str, Any]) -> None:
        self.device, self.precision, self.num_classes = runtime.device, runtime.precision, runtime.num_classes
        with building_from(runtime.path):
            model = build_from_metadata(metadata)
        assert isinstance(model, RetinaNet)
        graph = _Graph(runtime, model.backbone.strides)
        model.backbone, model.head = graph, _Head(graph)  # type: ignore[assignment]
        self.model = model.eval()

    @torch.inference_mode()
    def __call__(self, images: Images, **arguments: Any) -> Any:
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
