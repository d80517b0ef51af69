"""Detection on two processes: each image is evaluated once, and the metrics of the run are those of its files."""

import csv
from pathlib import Path

import pytest
from helpers.detect_runs import data, tiny_recipe
from helpers.together import recipe_file, rmt_command, run_together

from rmt.tasks.detect.evaluate import evaluate_checkpoint


@pytest.mark.slow
def test_two_processes_evaluate_each_image_once(tmp_path):
    folder = tmp_path / "run"
    recipe = tiny_recipe(output=str(folder), devices="auto", nodes=0, accumulate=1, sync_batchnorm=True, ema_decay=0.0)
    said = tmp_path / "said"
    codes = run_together(
        rmt_command, "train", recipe_file(tmp_path / "recipe.py", recipe), size=2, output=said, seconds=300
    )
    assert codes == [0, 0], (said / "0.txt").read_text() + (said / "1.txt").read_text()
    with open(folder / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "epoch"]
    alone = evaluate_checkpoint(folder / "last.safetensors", str(data()), workers=0)
    assert alone["images"] == 4
    for kind in ("box", "mask"):
        for name in ("ap", "ap50"):
            expected = 100 * max(alone["figures"][kind][name], 0)
            assert float(rows[-1][f"val_{kind}_{name}"]) == pytest.approx(expected, abs=1e-6)
    assert [Path(file).name for file in sorted(folder.glob("*.safetensors"))] == [
        "best.safetensors",
        "last.safetensors",
    ]
