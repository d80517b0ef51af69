"""The public names of the package: those in the `__all__` of its packages and modules. Needs no Sphinx."""

import ast
import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[2] / "src"


@functools.cache
def packages() -> list[str]:
    """The packages and modules with public names, `rmt` first: those that define `__all__`."""
    found = []
    for file in sorted(SOURCE.glob("rmt/**/*.py")):
        if any(isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__" for node in body(file)):
            path = file.parent if file.name == "__init__.py" else file.with_suffix("")
            found.append(".".join(path.relative_to(SOURCE).parts))
    return found


def body(file: Path) -> list[ast.stmt]:
    return ast.parse(file.read_text(encoding="utf-8")).body


def public_names(package: str) -> dict[str, Any]:
    """The names in `__all__`, and what they stand for."""
    module = importlib.import_module(package)
    return {name: getattr(module, name) for name in sorted(module.__all__, key=str.lower)}


def members(thing: type) -> dict[str, Any]:
    """The public methods and properties that this package defines for a class, in the order of the source.

    Those of a base class are included, unless it is a public name itself: its own entry has them.
    """
    public = {getattr(importlib.import_module(package), name) for package, name in _classes()} - {thing}
    found = {}
    for kind in thing.__mro__:
        if not kind.__module__.startswith("rmt.") or kind in public:
            continue
        for name, own in vars(kind).items():
            part = getattr(own, "fget", None) or getattr(own, "func", None) or getattr(own, "__func__", own)
            if inspect.isfunction(part) and part.__name__ != "<lambda>" and name[0] != "_" and name not in found:
                found[name] = part
    return found


@functools.cache
def _classes() -> list[tuple[str, str]]:
    names = [(package, name) for package in packages() for name in public_names(package)]
    return [(p, name) for p, name in names if inspect.isclass(getattr(importlib.import_module(p), name))]


@functools.cache
def all_names() -> set[str]:
    """The public names, each with the package that describes it."""
    return {f"{described_in(package, name)}.{name}" for package in packages() for name in public_names(package)}


def mentioned(page: str) -> set[str]:
    """The names of `rmt` that the source of a page imports or mentions (`rmt.x.y`), without modules.

    Each by the name under which the reference describes it; if that does not describe it, as on the page.
    """
    found = set(re.findall(r"(?<![\w./-])(?<!-m )rmt(?:\.[A-Za-z_]\w*)+", page))
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("rmt."):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    public = {
        id(thing): f"{package}.{name}"
        for package in reversed(packages())
        for name, thing in public_names(package).items()
    }
    return {public.get(id(_resolve(name)), name) for name in found if not _is_module(name)}


def _is_module(name: str) -> bool:
    path = SOURCE.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def _resolve(name: str) -> Any:
    """What a name with dots stands for; None if there is no such thing."""
    parent, _, own = name.rpartition(".")
    return getattr(importlib.import_module(parent) if _is_module(parent) else _resolve(parent), own, None)


def described_in(package: str, name: str) -> str:
    """The first package, in order of `packages()`, that exports the same object by the same name."""
    own = getattr(importlib.import_module(package), name)
    for other in packages():
        module = importlib.import_module(other)
        if name in module.__all__ and getattr(module, name) is own:
            return other
    return package


def origin(package: str, name: str) -> Path:
    """The file that assigns a name, following the imports from one `__init__.py` to the next."""
    file = SOURCE.joinpath(*package.split("."))
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    for node in body(file):
        if isinstance(node, ast.ImportFrom) and node.module and any(alias.name == name for alias in node.names):
            return origin(node.module, name)
    return file


def comment(package: str, name: str) -> str:
    """What the source says of a constant: the string below its assignment, or the lines `#:` above it; or nothing."""
    file = origin(package, name)
    nodes = body(file)
    for node, following in zip(nodes, [*nodes[1:], None], strict=True):
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if not isinstance(target, ast.Name) or target.id != name:
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            return str(following.value.value)
        above = file.read_text(encoding="utf-8").splitlines()[: node.lineno - 1]
        lines: list[str] = []
        while above and (found := re.match(r"#: ?(.*)", above.pop())):
            lines.insert(0, found[1])
        return "\n".join(lines)
    return ""
