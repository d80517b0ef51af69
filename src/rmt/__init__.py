"""RMT: Retentive Networks Meet Vision Transformers. `import rmt` makes `timm.create_model("rmt_small")` work."""

from typing import TYPE_CHECKING, Any, NoReturn

from rmt._timm import register_models
from rmt._version import __version__
from rmt.errors import RMTError
from rmt.extras import missing_extra

if TYPE_CHECKING:
    from rmt.heads import detector, segmenter
    from rmt.inference import load
    from rmt.model import create_model, list_models, load_checkpoint, load_official, save_checkpoint
    from rmt.model.deploy import deploy
    from rmt.recipes import Recipe
    from rmt.tasks import resume, train

_EXPORTS = {
    "rmt.model": ["create_model", "deploy", "list_models", "load_checkpoint", "load_official", "save_checkpoint"],
    "rmt.heads": ["detector", "segmenter"],
    "rmt.inference": ["load"],
    "rmt.recipes": ["Recipe"],
    "rmt.tasks": ["resume", "train"],
}
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = [
    "RMTError",
    "Recipe",
    "__version__",
    "create_model",
    "deploy",
    "detector",
    "list_models",
    "load",
    "load_checkpoint",
    "load_official",
    "resume",
    "save_checkpoint",
    "segmenter",
    "train",
]

register_models()


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use, so that `rmt --help` answers without it.

    Where a package of an extra is missing, the name stands for a function that raises an RMTError: `hasattr`,
    `from rmt import *`, `help(rmt)` and completion work without the extras.
    """
    if name not in _MODULES:
        raise AttributeError(f"module 'rmt' has no attribute {name!r}")
    from importlib import import_module

    try:
        module = import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        missing = missing_extra(f"rmt.{name}", error)
        if missing is None:
            raise

        def unavailable(*args: object, **kwargs: object) -> NoReturn:
            raise missing

        unavailable.__name__ = unavailable.__qualname__ = name
        unavailable.__doc__ = str(missing)
        return unavailable
    return getattr(module, name)


def __dir__() -> list[str]:
    return __all__
