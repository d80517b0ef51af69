"""Settings of the whole suite, made before any test module is read, and what tests of several folders take."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    # Triton's own functions decide when it is first imported, by whomever, whether they will be interpreted.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def open_tmp_path() -> Iterator[Path]:
    """A temporary folder that other users may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
