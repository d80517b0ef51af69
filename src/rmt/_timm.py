"""Register the networks with timm when timm is imported, so that `import rmt` itself stays fast.

timm has no plug-in entry point, and importing it loads torch, which `rmt --help` must not. So the networks are
registered at once if timm is loaded already, and otherwise by an import hook as soon as it is.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType


class _AfterTimm(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook: load timm as usual, then import `rmt.model`."""

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
        module.__loader__ = self.timm_loader  # as if the hook had not been there
        if module.__spec__ is not None:
            module.__spec__.loader = self.timm_loader
        self.timm_loader.exec_module(module)
        import rmt.model  # noqa: F401 - for its @register_model


def register_models() -> None:
    """Register with timm now, or when it is imported."""
    if "timm" in sys.modules:
        import rmt.model  # noqa: F401
    else:
        sys.meta_path.insert(0, _AfterTimm())
