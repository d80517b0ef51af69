"""OpenVINO's files, by its own converter of captured programs."""

from pathlib import Path

import openvino
from torch.export import ExportedProgram

from rmt.export.graph import INPUT, Graph


def convert(graph: Graph, program: ExportedProgram, precision: str, folder: Path) -> openvino.Model:
    """The program as an OpenVINO model. In bf16 it is compiled on loading, see `OpenVinoRuntime`."""
    model = openvino.convert_model(program)
    model.reshape([-1 if side is None else side for side in graph.input_shape])  # the converter forgets fixed sizes
    model.inputs[0].get_tensor().set_names({INPUT})
    for output, name in zip(model.outputs, graph.outputs, strict=True):
        output.get_tensor().set_names({name})
    return model


def save(model: openvino.Model, metadata: str, path: Path) -> None:
    model.set_rt_info(metadata, ["rmt"])
    openvino.save_model(model, path, compress_to_fp16=False)
