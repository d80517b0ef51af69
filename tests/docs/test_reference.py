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


@pytest.mark.parametrize(
    "name", ["README.md", *sorted(str(file.relative_to(ROOT)) for file in ROOT.glob("docs/**/*.md"))]
)
def test_a_name_on_a_page_is_in_the_reference(name):
    public = NAMES.all_names()
    for found in NAMES.mentioned(page(name)):
        assert found in public or found.rpartition(".")[0] in public, found


def test_names_are_found_in_imports_and_in_the_text():
    text = "`rmt.load(x)`, `python -m rmt.benchmark.reach`, `model/rmt.py`, `rmt.ops.dispatch`, `rmt.model.rmt.nchw`\n"
    text += "```python\nfrom rmt.inference.predictor import (\n    Predictor,\n    Gone,\n)\n```\n"
    expected = {"rmt.load", "rmt.model.rmt.nchw", "rmt.inference.Predictor", "rmt.inference.predictor.Gone"}
    assert NAMES.mentioned(text) == expected


def faults(text: str, is_property: bool = False) -> list[str]:
    """What Sphinx would render wrongly in a docstring.

    It loses a name of several attributes, repeats the text of several arguments for each, takes a letter and a full
    stop for the number of a list, and takes words before a colon in a property's first line for its type.
    """
    first = text.partition("\n")[0]
    found = [first] if is_property and ": " in re.sub("`[^`]*`", "", first) else []
    for section, entries in re.findall(r"^(Args|Attributes):\n((?:(?:    .*)?\n)+)", f"{text}\n", re.MULTILINE):
        for names, about in re.findall(r"^    (\w[\w, *]*):(.*(?:\n     .*)*)", entries, re.MULTILINE):
            several_have_one_text = "," in names and (section == "Attributes" or not re.match(" (see|as in) ", about))
            if several_have_one_text or len(about.split()) < 2 or re.match(r" \w\. ", about):
                found.append(f"{names}:{about}")
    return found


@pytest.mark.parametrize(("package", "name"), ALL)
def test_a_docstring_is_rendered_as_it_is_meant(package, name):
    thing = public_names(package)[name]
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return
    assert faults(inspect.getdoc(thing)) == []
    for own, part in NAMES.members(thing).items() if inspect.isclass(thing) else []:
        assert faults(inspect.getdoc(part) or "", not inspect.isroutine(getattr(thing, own))) == [], own


def test_faults_of_docstrings_are_found():
    text = "T.\n\nArgs:\n    a, b: two\n        texts.\n    c, d: see `x`.\n    e: K.\n    f:\n    g: is fine.\n"
    assert faults(text) == ["a, b: two\n        texts.", "e: K.", "f:"]
    assert faults("T.\n\nAttributes:\n    a, b: see `x`.\n") == ["a, b: see `x`."]
    assert faults("Whether: `a`.", is_property=True) and not faults("Whether `a: b`.", is_property=True)


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
