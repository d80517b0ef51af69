"""The trained networks whose weights are in this package: their names are taken wherever a checkpoint is."""

from pathlib import Path

FOLDER = Path(__file__).parent / "weights"

SHIPPED = {"rmt_micro": "cifar10"}
"""Network -> timm's tag of its weights; docs/rmt_micro.md is the model card."""

DEFAULT = "rmt_micro"
"""The network of `rmt predict` without a checkpoint."""


def shipped_weights(name: str) -> Path | None:
    """The model file of a network, named with or without its tag (`rmt_micro.cifar10`); None if there is none."""
    network, _, tag = name.partition(".")
    if network not in SHIPPED or tag not in ("", SHIPPED[network]):
        return None
    return FOLDER / f"{network}.{SHIPPED[network]}.safetensors"


def default_output(source: Path, suffix: str) -> Path:
    """Where a command writes what it makes of a model file: beside it, but in the working folder for one of ours."""
    return (Path(source.name) if source.parent == FOLDER else source).with_suffix(suffix)
