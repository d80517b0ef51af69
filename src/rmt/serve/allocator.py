"""glibc's allocator, told to keep the memory of one batch for the next."""

import ctypes
import os

# From <malloc.h>.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT = 256 * 2**20
_LARGEST = 32 * 2**20
"""The highest threshold that glibc takes: memory above it, of large photographs, still goes back at once."""


def keep_memory() -> None:
    """Keep up to 256 MB of freed memory, in one heap for all threads. To be called before there are other threads.

    By default glibc gives what the network has freed back to the system after each layer or batch, most of all in
    threads, and gets it again as thousands of page faults: 9 to 12 of 40 ms for an image by `rmt_nano` at 224², beside
    other work. Nothing is changed for other C libraries, or where the user has set the allocator by `MALLOC_…`
    variables.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # of macOS and musl
        return
    for option, value in ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, _LARGEST), (_TRIM_THRESHOLD, _KEPT)):
        set_option(option, value)
