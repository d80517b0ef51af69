"""Options that only some tasks have, or that have an effect beside some others alone."""

import inspect
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from rmt.errors import RMTError
from rmt.model import read_metadata


def options_for(*functions: Callable, given: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Returns the options that were given (are not None). Raises RMTError for one that none of `functions` takes."""
    chosen = {key: value for key, value in given.items() if value is not None}
    if unknown := set(chosen).difference(*(inspect.signature(function).parameters for function in functions)):
        raise not_an_option(unknown, path)
    return chosen


def require_unused(command: Callable, given: dict[str, Any], why: str) -> None:
    """Raises RMTError, with the reason, if one of these options of a command is not at its default."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    if changed := [f"--{name.replace('_', '-')}" for name, value in given.items() if value != defaults[name]]:
        raise RMTError(f"{', '.join(changed)}: {why}")


def not_an_option(options: Collection[str], path: str | Path) -> RMTError:
    """Returns the error for options that the task of the model file at `path` does not have."""
    names = ", ".join(f"--{key.replace('_', '-')}" for key in sorted(options))
    return RMTError(f"{names}: not an option for {path}, a model for the task {read_metadata(path)['task']!r}")
