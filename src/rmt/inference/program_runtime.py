"""PyTorch's .pt2 archives: programs of torch.export, and those that AOTInductor compiled to machine code.

Loading one runs code of the file: machine code, or expressions that PyTorch evaluates. See `require_trust`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmt.inference.exported import ExportedRuntime, quiet


class ProgramRuntime(ExportedRuntime):
    """Runs a program of torch.export."""

    program: Any

    def open(self, path: Path) -> None:
        with quiet():
            self.program = torch.export.load(path).module()

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> list[np.ndarray]:
        found = self.program(torch.from_numpy(images))
        return [each.float().numpy() for each in (found if isinstance(found, tuple | list) else (found,))]


class CompiledRuntime(ProgramRuntime):
    """Runs a program compiled by AOTInductor, on a processor like the one that it was compiled on."""

    def open(self, path: Path) -> None:
        with quiet():
            self.program = torch._inductor.aoti_load_package(str(path))
