"""PyTorch's .pt2 archives: the program of torch.export, or compiled to machine code by AOTInductor."""

import copy
import shutil
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from rmt.export.graph import Graph
from rmt.inference.exported import quiet


class _InBfloat16(nn.Module):
    """A copy of a module in bfloat16, with inputs and outputs in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).to(torch.bfloat16)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        found = self.module(images.to(torch.bfloat16))
        return tuple(each.float() for each in found) if isinstance(found, tuple) else found.float()


def write_program(graph: Graph, program: ExportedProgram, precision: str, folder: Path) -> Path:
    """Writes the program itself."""
    path = folder / "program.pt2"
    with quiet():
        torch.export.save(_in_precision(graph, program, precision), path)
    return path


def compile_program(graph: Graph, program: ExportedProgram, precision: str, folder: Path) -> Path:
    """Compiles the program for this processor, which takes minutes."""
    path = folder / "compiled.pt2"
    with quiet():
        torch._inductor.aoti_compile_and_package(_in_precision(graph, program, precision), package_path=str(path))
    return path


def save(written: Path, metadata: str, path: Path) -> None:
    """Copies the archive and adds the metadata to it as `extra/rmt`."""
    shutil.copyfile(written, path)
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/extra/rmt", metadata)


def _in_precision(graph: Graph, program: ExportedProgram, precision: str) -> ExportedProgram:
    if precision == "fp32":
        return program
    return Graph(_InBfloat16(graph.module), graph.outputs, graph.shape, graph.dynamic).capture()
