"""Import the libraries of a command in less time."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def import_quickly() -> Iterator[None]:
    """Imports in the body run without garbage collection, and what they make is left out of later collections.

    PyTorch and the libraries on top of it make 900,000 objects, all of them to stay. Looking through them again and
    again is a fifth of the time of their import. Once PyTorch is imported this does nothing.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
