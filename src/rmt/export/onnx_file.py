"""ONNX files, by PyTorch's exporter of captured programs."""

import contextlib
import io
from pathlib import Path
from typing import Any

import onnx
import torch
from torch.export import ExportedProgram

from rmt.export.graph import INPUT, Graph
from rmt.inference.exported import quiet

OPSET = 20  # the first with an operator for GELU


def convert(graph: Graph, program: ExportedProgram, precision: str, folder: Path) -> onnx.ModelProto:
    """The program as an ONNX model, without the notes about its origin, which take more space than small weights."""
    with quiet(), contextlib.redirect_stdout(io.StringIO()):
        converted: Any = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(graph.outputs),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    model: onnx.ModelProto = converted.model_proto
    _strip(model)
    if graph.dynamic:
        _name_dimensions(model.graph)
    return model


def save(model: onnx.ModelProto, metadata: str, path: Path) -> None:
    del model.metadata_props[:]
    model.metadata_props.add(key="rmt", value=metadata)
    path.write_bytes(model.SerializeToString())


def _strip(model: onnx.ModelProto) -> None:
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer, model.graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    del model.graph.value_info[:]


def _name_dimensions(graph: onnx.GraphProto) -> None:
    """Call the variable sizes of the input batch, height and width, and those of the outputs that equal them."""
    dimensions = graph.input[0].type.tensor_type.shape.dim
    names = {d.dim_param: name for d, name in zip(dimensions, ("batch", "", "height", "width"), strict=True)}
    for value in (*graph.input, *graph.output):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = names.get(dimension.dim_param, dimension.dim_param)
