"""What a bare installation lacks: the extras that bring it, and how to install them. One place says so."""

from rmt.errors import RMTError

#: Extra -> modules that it brings (top-level names, as they are imported).
EXTRAS = {
    "train": {
        "torchvision",
        "lightning",
        "datasets",
        "torchmetrics",
        "matplotlib",
        "tensorboard",
        "PIL",
        "numpy",
        "pyarrow",
        "rich",
    },
    "detect": {"faster_coco_eval"},
}


def missing(what: str, error: ModuleNotFoundError) -> RMTError | None:
    """What to tell the user when `what` could not import a module: the extra that brings it, and how to get that.

    None where the module belongs to no extra, so that its absence is a fault of ours or of the installation.
    """
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            package = module.replace("_", "-")
            return RMTError(
                f"{what} needs the package {package}: pip install '.[{extra}]' in a checkout, "
                f"or pip install 'rmt-vision[{extra}]' where rmt is on the package index"
            )
    return None
