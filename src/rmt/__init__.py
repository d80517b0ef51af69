"""RMT: Retentive Networks Meet Vision Transformers. `import rmt` makes `timm.create_model("rmt_small")` work."""

from typing import TYPE_CHECKING

from rmt._timm import register_models
from rmt._version import __version__
from rmt.errors import RMTError
from rmt.extras import missing_extra

if TYPE_CHECKING:
    from rmt.heads import detector, segmenter
    from rmt.model import create_model, list_models, load_checkpoint, load_official, save_checkpoint
    from rmt.model.deploy import deploy
    from rmt.tasks import load, train

_EXPORTS = {
    "rmt.model": ["create_model", "deploy", "list_models", "load_checkpoint", "load_official", "save_checkpoint"],
    "rmt.heads": ["detector", "segmenter"],
    "rmt.tasks": ["load", "train"],
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "RMTError",
    "__version__",
    "create_model",
    "deploy",
    "detector",
    "list_models",
    "load",
    "load_checkpoint",
    "load_official",
    "save_checkpoint",
    "segmenter",
    "train",
]

register_models()


def __getattr__(name: str):
    """Import what needs torch on first use, so that `rmt --help` answers without it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'rmt' has no attribute {name!r}")
    from importlib import import_module

    try:
        module = import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        raise missing_extra(f"rmt.{name}", error) or error from None
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
