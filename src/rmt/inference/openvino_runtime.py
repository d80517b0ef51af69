"""OpenVINO's files, FILE.xml with FILE.bin beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import torch

from rmt.inference.exported import ExportedRuntime


class OpenVinoRuntime(ExportedRuntime):
    """Runs an OpenVINO file on the CPU, with as many threads as PyTorch uses, in bfloat16 if it was exported so."""

    def __init__(self, path: Path, exported: Mapping[str, Any]) -> None:
        self.hint = "bf16" if exported["precision"] == "bf16" else "f32"
        super().__init__(path, exported)

    def open(self, path: Path) -> None:
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # a mapped file that is overwritten would end the process (SIGBUS)
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": self.hint,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # to cores that other programs may keep busy
        }
        self.request: openvino.InferRequest = core.compile_model(
            core.read_model(path), "CPU", settings
        ).create_infer_request()

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        found = self.request.infer([images])
        return [np.array(found[name]) for name in self.outputs]  # copies: the next call overwrites its buffers
