"""The formats of `rmt export`: suffix, precisions, and the functions that convert and write. Libraries are imported on
use, since they belong to the extra `export`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch.export import ExportedProgram

from rmt.export.graph import Graph

Name = Literal["onnx", "openvino", "torch", "aoti"]
Precision = Literal["fp32", "bf16", "int8"]


class Format(NamedTuple):
    """One format.

    Attributes:
        suffix: of the file.
        precisions: those that it is offered in.
        convert: (graph, program, precision, folder) to the library's model, or to a file in the temporary folder.
        save: (model, metadata, path) writes it, with the JSON text of the metadata.
        files: suffixes of all files that `save` writes.
    """

    suffix: str
    precisions: tuple[Precision, ...]
    convert: Callable[[Graph, ExportedProgram, Precision, Path], Any]
    save: Callable[[Any, str, Path], None]
    files: tuple[str, ...]


def fuses_attention(name: Name, precision: Precision) -> bool:
    """Whether attention is one operator: in OpenVINO faster in bf16, as fast in fp32; int8 quantises its parts."""
    return name == "openvino" and precision != "int8"


def format_named(name: Name) -> Format:
    """The format of that name. Raises ModuleNotFoundError if its library is missing."""
    if name == "onnx":
        from rmt.export import onnx_file

        return Format(".onnx", ("fp32", "int8"), onnx_file.convert, onnx_file.save, (".onnx",))
    if name == "openvino":
        from rmt.export import openvino_file

        files = (".bin", ".xml")
        return Format(".xml", ("fp32", "bf16", "int8"), openvino_file.convert, openvino_file.save, files)
    from rmt.export import pt2_file

    convert = pt2_file.compile_program if name == "aoti" else pt2_file.write_program
    return Format(".pt2", ("fp32", "bf16"), convert, pt2_file.save, (".pt2",))
