"""Compile the C++ kernels with this machine's compiler at first use.

A library serves one dtype, and one head width or kernel size.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from rmt.cache import cache_folder, private_folder, require_private
from rmt.errors import RMTError

SOURCES = ("planes.cpp", "line.h", "products.h", "lanes.h", "vectors.h", "depthwise.cpp", "norm.cpp")
# No -ffast-math: the compiler could then assume that there are no NaNs, and hide that a training run has diverged.
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
COMPILE_TIMEOUT = 120  # seconds
_ELF = b"\x7fELF"
ELEMENTS = {torch.float32: "float", torch.bfloat16: "bf16", torch.float16: "half"}  # types of vectors.h


class Unavailable(Exception):
    """The kernels cannot be built on this machine; the message says why."""


class NoCompiler(Unavailable):
    """No compiler is installed, which is common and not worth a warning."""


_warned = False


@functools.cache
def unavailable_reason(source: str, dtype: torch.dtype, define: str | None = None) -> str | None:
    """Return why these kernels cannot be used, or None.

    Problems that the user can fix (the cache folder, a failing compiler) are logged, once for all kernels.
    """
    global _warned
    try:
        load(source, dtype, define)
    except Unavailable as reason:
        if not _warned and not isinstance(reason, NoCompiler):
            _warned = True
            logging.getLogger(__name__).warning(
                "the C++ kernels are unavailable, falling back to PyTorch operators: %s", reason
            )
        return str(reason)
    return None


@functools.cache
def load(source: str, dtype: torch.dtype, define: str | None = None) -> ctypes.CDLL:
    """Load the kernels of one source file for one dtype, with one more macro, from the cache folder (`rmt.cache`).

    If they are not there, they are compiled, which takes some 3 s. Raises Unavailable.
    """
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if compiler is None:
        raise NoCompiler("no C++ compiler is installed")
    here = Path(__file__).parent
    try:
        sources = [(here / name).read_bytes() for name in SOURCES]
        folder = private_folder(cache_folder() / "kernels")
        defines = (*filter(None, [define]), f"ELEMENT={ELEMENTS[dtype]}")
        library = folder / "-".join([Path(source).stem, *defines, f"{_fingerprint(sources, compiler)}.so"])
        if not _is_whole(library):
            _compile(compiler, here / source, defines, library)
        require_private(library)
        return ctypes.CDLL(str(library))
    except RMTError as error:
        raise Unavailable(str(error)) from error
    except OSError as error:
        raise Unavailable(f"the kernels cannot be built or loaded: {error}") from error


def _compile(compiler: str, source: Path, defines: tuple[str, ...], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        command = [compiler, *FLAGS, *(f"-D{define}" for define in defines), str(source), "-o", str(built)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{compiler} did not finish within {COMPILE_TIMEOUT} s") from error
        if done.returncode:
            first = next(filter(None, done.stderr.splitlines()), f"exit code {done.returncode}")
            raise Unavailable(f"{compiler} failed: {first}")
        _seal(built)
        built.chmod(0o700)  # whatever the umask
        built.replace(library)  # atomic: other processes may be compiling the same file


def _seal(library: Path) -> None:
    """Append the hash of a library, which loading it ignores: a file that was cut would end the process."""
    content = library.read_bytes()
    if content.startswith(_ELF):
        library.write_bytes(content + hashlib.sha256(content).digest())


def _is_whole(library: Path) -> bool:
    """Whether there is a library, and, where libraries are ELF files, it is as `_seal` left it."""
    if not library.is_file() or sys.platform != "linux":
        return library.is_file()
    content, size = library.read_bytes(), hashlib.sha256().digest_size
    return content.startswith(_ELF) and hashlib.sha256(content[:-size]).digest() == content[-size:]


def _fingerprint(sources: list[bytes], compiler: str) -> str:
    """Hash of everything that the machine code depends on: different machines may share a home folder."""
    cpu = platform.processor() + platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu += "".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})
        )
    parts = [*sources, *(text.encode() for text in (cpu, compiler, *FLAGS))]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
