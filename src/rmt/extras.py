"""Optional dependencies: which extra installs which package."""

import importlib.util

from rmt.errors import RMTError

#: Extra -> modules that it installs (top-level names, as they are imported).
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
        "yaml",
    },
    "detect": {"faster_coco_eval"},
    "explain": {"captum"},
    "ray": {"ray"},
    "export": {"onnx", "onnxscript", "onnxruntime", "openvino", "nncf"},
    "serve": {"fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client"},
}


def require(*modules: str) -> None:
    """Raise ModuleNotFoundError for a module that is not installed, before work that would be lost by it.

    Nothing is imported, which takes seconds for some.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)


def missing_extra(what: str, error: ModuleNotFoundError) -> RMTError | None:
    """Return the error to raise when `what` could not import a module: it names the extra to install.

    Returns None if the module belongs to no extra; then its absence is a bug or a broken installation.
    """
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            package = {"PIL": "pillow", "yaml": "pyyaml"}.get(module, module.replace("_", "-"))
            return RMTError(
                f"{what} needs the package {package}: pip install '.[{extra}]' in a checkout, "
                f"or pip install 'rmt-vision[{extra}]' where rmt is on the package index"
            )
    return None
