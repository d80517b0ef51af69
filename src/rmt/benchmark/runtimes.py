"""Networks in other runtimes, for the modes `onnxruntime` and `openvino`: exported to ONNX, run on a CPU in float32."""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from rmt.errors import RMTError


def runtime_step(runtime: str, model: nn.Module, images: Tensor) -> Callable[[], object]:
    """Return a function that runs the exported network on `images`, with as many threads as PyTorch.

    Raises RMTError if a package is missing.
    """
    threads, pixels = torch.get_num_threads(), images.numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        try:
            _export(model, images, path)
            if runtime == "openvino":
                import openvino

                settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
                compiled = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", settings)
                request = compiled.create_infer_request()
                return lambda: request.infer([pixels])
            import onnxruntime
        except ImportError as error:
            raise RMTError(
                f"the mode {runtime} needs the package {error.name}: pip install onnx onnxscript {runtime}"
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: pixels})


def _export(model: nn.Module, images: Tensor, path: Path) -> None:
    """Write an ONNX file, with the weights beside it where they are large."""
    quiet = contextlib.redirect_stdout(io.StringIO())
    with warnings.catch_warnings(), quiet, torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (images,), str(path), dynamo=True, verbose=False)
