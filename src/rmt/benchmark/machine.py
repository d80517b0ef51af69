"""Machine, versions and settings, recorded with every measurement."""

import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import timm
import torch

from rmt._version import __version__
from rmt.errors import RMTError
from rmt.ops.call import allows_tf32

MOST_LOAD = 0.25  # processes per core that a quiet machine runs
MOST_SPREAD = 0.1


def describe(device: str) -> dict[str, Any]:
    """Return machine, versions and settings, for the JSON."""
    info: dict[str, Any] = dict(
        cpu=_cpu_name(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        timm=timm.__version__,
        numpy=numpy.__version__,
        rmt=__version__,
        tf32=allows_tf32(),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        info |= dict(gpu=properties.name, gpu_memory=properties.total_memory, cuda=torch.version.cuda)
    return info


def check_device(device: str) -> None:
    """Raise RMTError unless PyTorch finds the device, cpu, cuda, cuda:NUMBER or mps, on this machine."""
    kind, _, number = device.partition(":")
    if not re.fullmatch("cpu|mps|cuda(:0|:[1-9][0-9]*)?", device):
        raise RMTError(f"--device {device}: choose one of cpu, cuda, cuda:NUMBER, mps")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise RMTError(f"device {device}: this machine has no CUDA device that PyTorch can use")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise RMTError("device mps: this machine has no Apple GPU that PyTorch can use")


def quiet_warnings(load: float | None, spreads: Sequence[float]) -> list[str]:
    """Return what says that other work disturbed a run: one line each.

    Args:
        load: the system's mean number of running processes in the minute before the run; None if not known.
        spreads: of each case, half the distance of the quartiles of its rounds, relative to the median.
    """
    found, cores = [], os.cpu_count() or 1
    if load is not None and load > MOST_LOAD * cores:
        found.append(f"the machine was not quiet: {load:.1f} processes were running on {cores} cores before the run")
    if wide := [spread for spread in spreads if spread > MOST_SPREAD]:
        found.append(
            f"{len(wide)} of {len(spreads)} cases varied by more than ± {MOST_SPREAD:.0%} between rounds (up to "
            f"± {max(wide):.0%}): compare them with care, or repeat with more --rounds on a quiet machine"
        )
    return found


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    fields = dict(re.findall(r"^(.*?)\s*:\s*(.*?)\s*$", cpuinfo.read_text().split("\n\n")[0], re.MULTILINE))
    return f"{fields.get('model name', platform.processor())}, model {fields.get('model', '?')}"
