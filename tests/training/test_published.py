"""A run is compared with the row of the paper, and what sets it apart is said."""

from dataclasses import replace
from pathlib import Path

import pytest

from rmt.recipes import RECIPES, quickstart
from rmt.recipes.published import DATASETS
from rmt.tasks import task_named
from rmt.training.batch import resolve_ema_decay, share_batch
from rmt.training.network import resolve_network
from rmt.training.published import compare_with_published
from rmt.training.run_folder import RunFolder


def as_run(name: str, **changes):
    """The recipe as it runs on eight GPUs."""
    recipe = replace(RECIPES[name](), devices=8, nodes=1, device="cuda", strategy="ddp", precision="bf16")
    return resolve_ema_decay(resolve_network(share_batch(replace(recipe, **{"output": "runs/x", **changes}))))


def compare(name: str, **changes):
    data = DATASETS[RECIPES[name]().task]
    return compare_with_published(as_run(name, **changes), classes=data.classes, train=data.train, val=data.val)


def test_the_published_run_differs_in_nothing():
    assert compare("imagenet-tiny", data="imagenet") == {
        "table": "Table 1",
        "scores": {"top1": 82.4},
        "length": "300 epochs",
        "differs": [],
    }
    for name in ("coco-mask-rcnn-tiny-1x", "ade20k-upernet-small", "coco-mask-rcnn-swin-tiny-1x"):
        assert compare(name, weights="RMT-T.pth")["differs"] == []
    assert compare("ade20k-upernet-small")["length"] == "160,000 iterations"


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        (
            "imagenet-tiny",
            dict(model="rmt_pico"),
            ["--model rmt_pico instead of rmt_tiny", "--drop-path 0.0 instead of 0.1"],
        ),
        ("imagenet-tiny", dict(drop_path=0.3), ["--drop-path 0.3 instead of 0.1"]),
        ("imagenet-tiny", dict(randaugment=""), ['--randaugment "" instead of rand-m9-mstd0.5-inc1']),
        ("imagenet-tiny", dict(batch_size=32), ["effective batch 256 instead of 1,024"]),
        (
            "imagenet-tiny",
            dict(model="rmt_small"),
            ["--model rmt_small instead of rmt_tiny", "--drop-path 0.15 instead of 0.1"],
        ),
        ("imagenet-tiny", dict(weights="x.pth"), ["it starts from --weights"]),
        ("imagenet-tiny", dict(epochs=1, seed=3, workers=0, precision="fp32"), []),
        ("coco-mask-rcnn-tiny-1x", {}, ["it starts without --weights of an ImageNet classifier"]),
        ("coco-mask-rcnn-tiny-1x", dict(weights="x", short_side=640), ["--short-side 640 instead of 800"]),
        ("ade20k-upernet-small", dict(weights="x", crop_size=256), ["--crop-size 256 instead of 512"]),
    ],
    ids=str,
)
def test_what_was_changed_is_said(name, changes, said):
    assert compare(name, **changes)["differs"] == said


def test_another_network_has_no_published_scores():
    for name, changes in (
        ("imagenet-tiny", dict(model="rmt_small")),
        ("imagenet-tiny", dict(model_args="decay=none")),
        ("ablation-no-lce", dict(model_args="")),
        ("coco-mask-rcnn-tiny-1x", dict(masks=False, weights="x")),
        ("ade20k-upernet-small", dict(head="semantic_fpn", weights="x")),
    ):
        found = compare(name, **changes)
        assert found["scores"] == {} and found["differs"]
    assert compare("imagenet-tiny", drop_path=0.3)["scores"] == {"top1": 82.4}
    found = lines("imagenet-tiny", "test", dict(top1=1.0, top5=2.0, loss=2.0), changes=dict(model="rmt_small"))
    assert not any(line.startswith("published") for line in found)
    assert any(line.startswith("not the published run: --model rmt_small instead of rmt_tiny") for line in found)


def test_other_data_are_said():
    found = compare_with_published(as_run("imagenet-tiny", data="photos"), classes=10, train=100, val=2_000)
    assert found["differs"] == [
        "10 classes instead of the 1,000 of ImageNet-1k",
        "100 training images instead of the 1,281,167 of ImageNet-1k",
        "2,000 evaluated images instead of the 50,000 of ImageNet-1k",
    ]


def test_a_recipe_of_one_s_own_has_no_row():
    assert compare_with_published(quickstart(), classes=10, train=8_000, val=2_000) is None
    mine = replace(as_run("imagenet-tiny"), name="mine")
    assert compare_with_published(mine, classes=10, train=8_000, val=2_000) is None


def metrics(name: str, split: str, scores: dict[str, float], **more) -> dict:
    """What the closing lines of a run read of its `metrics.json`."""
    entry = {"epoch": 1, "raw": {"val": scores, split: scores}}
    return {
        "last": entry,
        "best": {"epoch": 1, "weights": "raw", "val": scores, split: scores},
        "published": compare(name, **more.pop("changes", {})),
        "best_chosen_on": "…",
        "unreadable": {},
        "skipped_files": {},
        "training_seconds": 1.0,
        "images_per_s": 1.0,
        **more,
    }


def lines(name: str, *arguments, **more) -> list[str]:
    found = task_named(RECIPES[name]().task).summary(metrics(name, *arguments, **more), RunFolder(Path("runs/x")))
    return [" ".join(line.split()) for line in found]


def test_the_end_of_a_run_of_each_task():
    found = lines("imagenet-tiny", "test", dict(top1=12.345, top5=30.0, loss=2.0))
    assert "published, Table 1 – 82.4 % – –" in found
    assert "published 82.4 top-1 (best epoch), this run 12.3 after 1 of 300 epochs (Table 1)" in found
    assert not any("not the published run" in line for line in found)

    scores = dict(box_ap=12.3, box_ap50=20.0, box_ap75=9.0, mask_ap=10.1, mask_ap50=19.0)
    found = lines("coco-mask-rcnn-tiny-1x", "val", scores)
    assert "published, Tables 2 to 4 47.1 % 68.8 % 51.7 % 42.6 % 65.8 %" in found
    assert "published 47.1 box AP, 42.6 mask AP, this run 12.3, 10.1 after 1 of 12 epochs (Tables 2 to 4)" in found
    assert "not the published run: it starts without --weights of an ImageNet classifier" in found

    details = {"best": {"most_frequent": dict.fromkeys(("miou", "macc", "aacc"), 1.0) | {"class": "wall"}}}
    more = dict(iterations=2_000, details=details, changes=dict(weights="x"))
    found = lines("ade20k-semantic-fpn-tiny", "val", dict(miou=4.0, macc=5.0, aacc=6.0), **more)
    assert "published, Table 5 46.4 % – –" in found
    assert "published 46.4 mIoU, this run 4.0 after 2,000 of 80,000 iterations (Table 5)" in found


def test_metrics_of_earlier_runs_have_no_such_lines():
    earlier = metrics("imagenet-tiny", "test", dict(top1=1.0, top5=2.0, loss=2.0))
    del earlier["published"]
    assert not any("published" in line for line in task_named("classify").summary(earlier, RunFolder(Path("runs/x"))))
