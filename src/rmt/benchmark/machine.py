"""Machine, versions and settings, recorded with every measurement."""

import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy
import timm
import torch

from rmt._version import __version__


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
        tf32=torch.backends.cuda.matmul.allow_tf32,
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        info |= dict(gpu=properties.name, gpu_memory=properties.total_memory, cuda=torch.version.cuda)
    return info


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    fields = dict(re.findall(r"^(.*?)\s*:\s*(.*?)\s*$", cpuinfo.read_text().split("\n\n")[0], re.MULTILINE))
    return f"{fields.get('model name', platform.processor())}, model {fields.get('model', '?')}"
