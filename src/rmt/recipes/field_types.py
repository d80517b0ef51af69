"""Whether a value, as JSON or a caller gives it, is of the type that a recipe's field is annotated with."""

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_LARGEST = 2**63
_LONGEST = 10_000  # characters of a text, entries of a list


def has_type(value: Any, annotation: Any) -> bool:
    """Whole numbers are numbers, and true and false are none; a number has at most 63 bits, a text or list 10,000
    entries."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return has_type(value, arguments[0])
    if origin in (Union, UnionType):
        return any(has_type(value, argument) for argument in arguments)
    if origin is Literal:
        return isinstance(value, str) and value in arguments
    if origin is tuple:
        many = isinstance(value, Sequence) and not isinstance(value, str) and len(value) <= _LONGEST
        return many and all(has_type(entry, arguments[0]) for entry in value)
    if annotation is str:
        return isinstance(value, str) and len(value) <= _LONGEST and "\0" not in value
    if annotation is bool or isinstance(value, bool):
        return annotation is bool and isinstance(value, bool)
    if isinstance(value, int) and abs(value) >= _LARGEST:
        return False
    return isinstance(value, int | float if annotation is float else annotation)


def describe_type(annotation: Any) -> str:
    """The type in words: "a number or auto"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe_type(arguments[0])
    if origin in (Union, UnionType):
        return " or ".join(describe_type(argument) for argument in arguments)
    if origin is Literal:
        return ", ".join(arguments)
    if origin is tuple:
        return f"a list of {'whole ' if arguments[0] is int else ''}numbers"
    return _WORDS.get(annotation, str(annotation))
