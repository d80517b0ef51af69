"""The style checks judge the sources, whatever a run has left in the checkout."""

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
