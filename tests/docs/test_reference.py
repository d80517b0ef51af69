"""The reference describes every public name, recipe field and command; docstrings give the shapes of tensors."""

import dataclasses
import inspect
import re

import pytest
from helpers.documentation import ROOT, page
from helpers.scripts_under_test import script

from rmt.commands.cli import COMMANDS
from rmt.recipes import ClassifyRecipe, DetectRecipe, Recipe, SegmentRecipe

NAMES = script("names", "docs/_ext")
comment, packages, public_names = NAMES.comment, NAMES.packages, NAMES.public_names

PAGES = "\n".join(page(f"docs/reference/{file.name}") for file in (ROOT / "docs/reference").glob("*.md"))
ALL = [(package, name) for package in packages() for name in public_names(package)]
SHAPE = re.compile(r"\([\w₀-₉·/⌈⌉…×\d]+(, *[^()]+)*,?\)|0-dim|images|as torchvision|see ")


@pytest.mark.parametrize("package", packages())
def test_a_package_is_in_the_reference(package):
    assert f"{{public-names}} {package}\n" in PAGES


@pytest.mark.parametrize(("package", "name"), ALL)
def test_a_public_name_is_documented(package, name):
    thing = public_names(package)[name]
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        assert comment(package, name)
        return
    assert inspect.getdoc(thing) and thing.__doc__, "no docstring"
    for part in [thing, *vars(thing).values()] if inspect.isclass(thing) else [thing]:
        own = getattr(part, "__name__", "_")
        if not inspect.isfunction(part) or (own.startswith("_") and own != "__init__"):
            continue
        hints = {key: str(value) for key, value in part.__annotations__.items()}
        if any(re.search(r"\bTensor\b", hint) for hint in hints.values()):
            text = f"{part.__doc__ or ''} {thing.__doc__}"
            assert SHAPE.search(text), f"{own}: the docstring gives no shape for {hints}"


@pytest.mark.parametrize(("package", "name"), ALL)
def test_every_method_is_documented(package, name):
    thing = public_names(package)[name]
    for own, part in NAMES.members(thing).items() if inspect.isclass(thing) else []:
        # A method that overrides one of this package may leave the text to it.
        overridden = [vars(kind)[own] for kind in thing.__mro__ if own in vars(kind) and "rmt." in kind.__module__]
        assert any(getattr(method, "__doc__", "") for method in [part, *overridden]), f"{name}.{own}"


@pytest.mark.parametrize("kind", [Recipe, ClassifyRecipe, DetectRecipe, SegmentRecipe])
def test_every_recipe_field_has_a_text(kind):
    assert f"{{recipe-fields}} {kind.__name__}\n" in PAGES
    source = inspect.getsource(kind)
    for field in dataclasses.fields(kind):
        if field.name in vars(kind).get("__annotations__", {}):
            assert re.search(rf'^    {field.name}: .*\n    """\S', source, re.MULTILINE), field.name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_reference(command):
    assert f"\n## rmt {command}\n" in PAGES
    assert command == "train" or f"{{command}} {command}\n" in PAGES
