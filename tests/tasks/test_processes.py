"""Training on several devices: two processes do what one does, lose nothing, and never wait for a dead one."""

import csv
from pathlib import Path

import pytest
from runs import tiny_recipe
from together import recipe_file, rmt_command, run_together

import rmt

# Nothing random that depends on the process: no drop path, no mixing, no augmentation.
PLAIN = dict(
    drop_path=0.0, mixup=0.0, cutmix=0.0, random_erasing=0.0, randaugment="", min_crop=1.0, flip=0.0, accumulate=1
)


def train_together(tmp_path: Path, size: int = 2, before=None, **changes) -> Path:
    """Trains in `size` processes; the run's folder."""
    folder = tmp_path / f"run-{size}"
    recipe = tiny_recipe(output=str(folder), devices="auto", **changes)
    codes = run_together(
        rmt_command, "train", recipe_file(tmp_path / "recipe.py", recipe), size=size, output=tmp_path / "said"
    )
    assert codes == [0] * size, (tmp_path / "said" / "0.txt").read_text() + (tmp_path / "said" / "1.txt").read_text()
    return folder


def losses(folder: Path) -> list[float]:
    with open(folder / "metrics.csv", newline="") as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file) if row["kind"] == "step"]


@pytest.mark.parametrize("norm", ["sync_batchnorm", "freeze_batchnorm"])
def test_two_processes_give_the_loss_curve_of_one(tmp_path, norm):
    options = PLAIN | {norm: True, "epochs": 17, "lr": 2e-3}
    together = train_together(tmp_path, batch_size=4, **options)
    alone = rmt.train(tiny_recipe(output=str(tmp_path / "alone"), batch_size=8, **options)).folder
    ours, theirs = losses(together), losses(alone)
    assert len(ours) == len(theirs) == 51
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert ours[-1] < 0.8 * ours[0]
