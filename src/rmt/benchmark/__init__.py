"""Speed and memory, side by side in one run. Needs torch, timm and NumPy alone; plots are drawn afterwards."""

from rmt.benchmark.cases import Case, Options, list_cases
from rmt.benchmark.run import run_benchmark

__all__ = ["Case", "Options", "list_cases", "run_benchmark"]
