"""Freed memory is kept for the next batch, unless the user has set the allocator."""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
import numpy as np
from rmt.serve.allocator import keep_memory

if sys.argv[1] == "kept":
    keep_memory()

def layers():
    for _ in range(20):
        arrays = [np.ones(2_000_000) for _ in range(5)]  # 16 MB each, more together than a thread's heap holds
        del arrays

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

before, thread = faults(), threading.Thread(target=layers)
thread.start()
thread.join()
print(faults() - before)
"""


def faults(kind, **variables):
    """Page faults of a process whose thread takes and frees 80 MB twenty times."""
    env = os.environ | {"NUMPY_MADVISE_HUGEPAGE": "0"} | variables  # pages of 4 kB
    done = subprocess.run([sys.executable, "-c", PROGRAM, kind], env=env, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_memory_is_kept_for_the_next_batch():
    least = 80 * 2**20 // 4096  # of the first time
    assert faults("kept") < 2 * least
    assert faults("usual") > 3 * least and faults("kept", MALLOC_ARENA_MAX="8") > 3 * least, "the user's settings stay"
