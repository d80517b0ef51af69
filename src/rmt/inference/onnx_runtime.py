"""ONNX files, by onnxruntime."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from rmt.inference.exported import ExportedRuntime


class OnnxRuntime(ExportedRuntime):
    """Runs an ONNX file on the CPU, with as many threads as PyTorch uses."""

    input: str

    def open(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        # From bytes, so that the file cannot name another one as the place of its weights.
        self.session: onnxruntime.InferenceSession = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
        (self.input,) = [value.name for value in self.session.get_inputs()]

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        return self.session.run(self.outputs, {self.input: images})
