"""Settings of the whole suite, made before any test module is read."""

import os

import torch

if not torch.cuda.is_available():
    # Triton's own functions decide when it is first imported, by whomever, whether they will be interpreted.
    os.environ["TRITON_INTERPRET"] = "1"
