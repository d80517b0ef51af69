"""Registers our networks with timm at the moment timm is imported, so that `import rmt` itself stays cheap.

timm has no plug-in entry point, so somebody has to import us; and `rmt --help` must answer without loading torch,
which importing timm does. Hence: register at once if timm is loaded already, else as soon as it has been.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType


class _AfterTimm(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds timm as Python would, and imports `rmt.model` once timm's own module body has run."""

    def find_spec(self, name, path=None, target=None):
        if name != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            self.timm_loader = spec.loader
            spec.loader = self
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self.timm_loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self.timm_loader  # leave no trace of ourselves
        if module.__spec__ is not None:
            module.__spec__.loader = self.timm_loader
        self.timm_loader.exec_module(module)
        import rmt.model  # noqa: F401 - for its @register_model


def register_models() -> None:
    if "timm" in sys.modules:
        import rmt.model  # noqa: F401
    else:
        sys.meta_path.insert(0, _AfterTimm())
