"""Trained networks as files that run without this package: ONNX, OpenVINO, PyTorch's .pt2. `export` writes them."""

from rmt.export.run import ExportOptions, export

__all__ = ["ExportOptions", "export"]
