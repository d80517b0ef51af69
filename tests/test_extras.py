"""What works on a bare `pip install .`, and what the rest says there."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from rmt.extras import EXTRAS, missing_extra

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
# Where a package is imported by another name.
MODULES = {"pillow": "PIL", "pyyaml": "yaml", "faster-coco-eval": "faster_coco_eval"}
MODULES |= {"python-multipart": "python_multipart", "prometheus-client": "prometheus_client"}
WITH_TIMM = {"torchvision", "yaml", "numpy", "PIL"}  # timm requires the first two, and torchvision the others


def modules(requirements: list[str]) -> set[str]:
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in requirements}
    return {MODULES.get(name, name) for name in names - {PROJECT["name"]}}


def on_a_bare_installation(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    """Runs code where the packages of the extras cannot be imported."""
    absent = (EXTRAS["train"] | EXTRAS["detect"]) - WITH_TIMM
    block = f"import sys; sys.modules.update(dict.fromkeys({sorted(absent)}))\n"
    return subprocess.run([sys.executable, "-c", block + code, *args], capture_output=True, text=True)


def test_the_extras_are_those_of_the_package():
    assert {extra: modules(PROJECT["optional-dependencies"][extra]) for extra in EXTRAS} == EXTRAS
    assert not modules(PROJECT["dependencies"]) & {name for names in EXTRAS.values() for name in names}


@pytest.mark.parametrize(
    ("words", "part"),
    [("--help", "token-labels"), ("--version", "rmt "), ("info rmt_pico", "multiply-adds"), ("recipes", "quickstart")],
)
def test_commands_that_need_no_extra(words, part):
    done = on_a_bare_installation("from rmt.commands.cli import main; sys.exit(main(sys.argv[1:]))", *words.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert part in done.stdout


def test_a_classifier_predicts_without_extras(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "grey.png")
    code = "import rmt; print(len(rmt.load('rmt_micro', device='cpu').predict(sys.argv[1:])))"
    done = on_a_bare_installation(code, str(tmp_path / "grey.png"))
    assert done.stdout == "1\n", done.stderr


def test_the_package_can_be_looked_at_without_extras_and_what_needs_one_says_how_to_get_it():
    """hasattr, completion, `from rmt import *` and help ask for every name."""
    code = """
import rmt
assert hasattr(rmt, "train") and not hasattr(rmt, "trian") and {"train", "resume", "Recipe"} <= set(dir(rmt))
from rmt import *
assert create_model("rmt_test").num_classes == 1000 and isinstance(Recipe, type)
import pydoc
text = pydoc.plain(pydoc.render_doc(rmt))
assert "train(*args" in text and "pip install '.[train]'" in text
for function in (train, resume):
    try: function(None)
    except RMTError as error: print(error)
"""
    done = on_a_bare_installation(code)
    lines = done.stdout.splitlines()
    assert [line.partition(" needs the package ")[0] for line in lines] == ["rmt.train", "rmt.resume"], done.stderr
    assert all("pip install '.[train]' in a checkout" in line for line in lines)


def test_a_module_of_no_extra_is_not_explained_away():
    assert missing_extra("this", ModuleNotFoundError("no rmt.typo", name="rmt.typo")) is None
