"""The style checks judge the sources, whatever a run has left in the checkout; scripts import what there is."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_run_folder_in_the_checkout_changes_no_import_s_place(tmp_path):
    """`make quickstart` leaves runs/, and the tests have a module of that name."""
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    (tmp_path / "src" / "rmt").mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    file = tmp_path / "tests" / "test_something.py"
    file.write_text("import pytest\nfrom helpers.runs import photos\n\nimport rmt\n\nprint(photos, pytest, rmt)\n")
    for left_behind in (None, "runs"):
        if left_behind:
            (tmp_path / left_behind).mkdir()
        checked = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--no-cache", str(tmp_path)], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout


def test_scripts_and_benchmarks_import_names_that_exist():
    """Some run for hours, or need data that is not here, so no other test starts them."""
    missing = []
    for file in [*ROOT.glob("scripts/*.py"), *ROOT.glob("benchmarks/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rmt":
                missing += [
                    f"{file.name}: {node.module}.{a.name}" for a in node.names if not there(node.module, a.name)
                ]
    assert not missing


def there(module: str | None, name: str) -> bool:
    """Whether the module, or package, has that name, as far as its optional libraries are installed."""
    try:
        return hasattr(importlib.import_module(module or ""), name) or bool(importlib.import_module(f"{module}.{name}"))
    except ModuleNotFoundError as error:
        return not (error.name or "").startswith("rmt")
