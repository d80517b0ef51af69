"""OpenVINO's files, by its own converter of captured programs."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino
from openvino import opset9
from openvino.frontend.pytorch import ConversionExtension
from torch.export import ExportedProgram

from rmt.export.graph import INPUT, Graph
from rmt.inference.exported import quiet


def convert(graph: Graph, program: ExportedProgram, precision: str, folder: Path) -> openvino.Model:
    """The program as an OpenVINO model. In bf16 it is compiled on loading, see `OpenVinoRuntime`."""
    extension = ConversionExtension("torchvision.nms.default", _convert_nms)
    with quiet():
        model = openvino.convert_model(program, extension=[extension])
    model.reshape([-1 if side is None else side for side in graph.input_shape])  # the converter forgets fixed sizes
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, graph.outputs, strict=True):
        output.get_tensor().set_names({name})
    return model


def save(model: openvino.Model, metadata: str, path: Path) -> None:
    model.set_rt_info(metadata, ["rmt"])
    openvino.save_model(model, path, compress_to_fp16=False)


def _convert_nms(context: Any) -> list[Any]:
    """torchvision's nms(boxes (N, 4), scores (N,), threshold), for which the converter has no rule of its own."""
    boxes, scores, threshold = (context.get_input(i) for i in range(3))
    found = opset9.non_max_suppression(
        opset9.unsqueeze(boxes, opset9.constant(np.array(0))),
        opset9.unsqueeze(scores, opset9.constant(np.array([0, 1]))),
        opset9.constant(np.int64(2**31 - 1)),
        opset9.convert(threshold, "f32"),
        opset9.constant(np.float32(-10)),  # scores from which boxes take part; ours are from −2
        box_encoding="corner",
    )
    return opset9.gather(found.output(0), opset9.constant(np.array(2)), opset9.constant(np.array(1))).outputs()
