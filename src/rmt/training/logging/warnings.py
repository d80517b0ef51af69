"""What Lightning and its kin say at every start and that means nothing here; real warnings still come through."""

import logging
import warnings

_MEANINGLESS = (
    r".*does not have many workers which may be a bottleneck.*",  # `--workers` is the user's choice
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",  # the EMA copy
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*GPU available but not used.*",  # `--device` is the user's choice
    r".*`LightningModule\.configure_optimizers` returned `None`.*",
    r".*isinstance\(treespec, LeafSpec\).* is deprecated.*",  # inside Lightning
    r".*`broadcast_buffers` is deprecated.*",  # its successor is missing from the older PyTorch that we allow
    # A depthwise kernel (C, 1, 3, 3) has one memory layout and two ways to write its strides.
    r"Grad strides do not match bucket view strides.*",
    r".*litlogger.*",  # advertising
)


def quiet_libraries() -> None:
    """Lowers Lightning's information messages and filters the warnings above, each by its text."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in _MEANINGLESS:
        warnings.filterwarnings("ignore", message=text)
