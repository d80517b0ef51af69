"""The help of `rmt predict FILE` and `rmt evaluate FILE`: the options of the file's task alone.

The help of these commands says in front of a text which tasks it is for: "Classifiers: side of the images. Detectors:
the short side." An option whose whole text is for other tasks is hidden, and so are the sentences for other tasks.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, get_type_hints

import tyro

from rmt.errors import RMTError

KINDS = {"classify": "classifiers", "detect": "detectors", "segment": "segmenters"}
_FOR = re.compile(r"\b((?:Classifiers|Detectors|Segmenters)(?: and (?:detectors|segmenters))?): ")


def help_for_file(run: Callable[..., Any], words: Sequence[str]) -> Callable[..., Any]:
    """Returns the command `run` with the help of the task of the model file among the words, if there is one."""
    from rmt.model import read_metadata
    from rmt.model.shipped import shipped_weights

    for word in words:
        if not word.startswith("-") and (Path(word).exists() or shipped_weights(word)):
            try:
                return help_for_task(run, read_metadata(word)["task"], word)
            except RMTError:
                return run
    return run


def help_for_task(run: Callable[..., Any], task: str, file: str) -> Callable[..., Any]:
    """Returns `run` with the options and sentences of a task alone in its help."""
    if task not in KINDS:
        return run
    kind = KINDS[task]
    about, _, arguments = (inspect.getdoc(run) or "").partition("\n\nArgs:\n")
    _, *names_and_texts = re.split(r"^    (\w+): ", arguments, flags=re.MULTILINE)
    described = zip(names_and_texts[::2], names_and_texts[1::2], strict=True)
    texts = {name: text_for(" ".join(text.split()), kind) for name, text in described}

    def shown(*args: Any, **kwargs: Any) -> Any:  # not functools.wraps: the parser would read the help of `run`
        return run(*args, **kwargs)

    hints = get_type_hints(run, include_extras=True)
    hints |= {name: Annotated[hint, tyro.conf.Suppress] for name, hint in hints.items() if not texts.get(name, "-")}
    own = inspect.signature(run)
    parameters = [parameter.replace(annotation=hints[name]) for name, parameter in own.parameters.items()]
    shown.__name__, shown.__annotations__ = run.__name__, hints
    shown.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    short, _, *more = about.split("\n\n")  # the second paragraph says that FILE --help shows less
    lines = [f"    {name}: {text}" for name, text in texts.items() if text]
    more = [f"The options for {kind}, of which {file} is one.", *more]
    shown.__doc__ = "\n".join(["\n\n".join([short, *more]), "", "Args:", *lines])
    return shown


def unwrap_arguments(run: Callable[..., Any]) -> None:
    """Joins the lines of each option's text in the docstring of a command, whose ends the parser would print."""
    about, title, texts = (inspect.getdoc(run) or "").partition("\n\nArgs:\n")
    run.__doc__ = about + title + re.sub(r"\n {8}", " ", texts)


def unwrap_fields(kind: type) -> None:
    """Joins the lines of the text below each field of a dataclass, as `unwrap_arguments` does for a command."""
    import docstring_parser  # comes with tyro

    classes = [owner for owner in reversed(kind.__mro__) if owner is not object]
    found = [text for owner in classes for text in docstring_parser.parse_from_object(owner).params]
    texts = {text.arg_name: " ".join((text.description or "").split()) for text in found}
    for field in fields(kind):
        if texts.get(field.name):
            field.metadata = MappingProxyType({**field.metadata, "help": texts[field.name]})


def text_for(text: str, kind: str) -> str:
    """What a text says of one kind of model, such as "detectors"; empty if it is for other kinds alone."""
    common, *parts = _FOR.split(text)
    own = [sentences for kinds, sentences in zip(parts[::2], parts[1::2], strict=True) if kind in kinds.lower()]
    sentences = [part.strip() for part in (common, *own) if part.strip()]
    return " ".join(part[0].upper() + part[1:] for part in sentences)
