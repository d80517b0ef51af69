"""Every field of a detection recipe has an effect, with every head, or is refused."""

import functools
import json
import math
import shutil
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.coco_sets import write_json
from helpers.detect_runs import data, tiny_recipe
from helpers.resolved import built

import rmt
from rmt.errors import RMTError
from rmt.recipes import DetectRecipe
from rmt.tasks.detect.data import DetectData
from rmt.training.trainer import build_trainer

FORMS: dict[str, dict[str, Any]] = {
    "retinanet": dict(head="retinanet", masks=False),
    "mask_rcnn": dict(head="mask_rcnn"),
    "mask_rcnn without masks": dict(head="mask_rcnn", masks=False),
    "cascade_mask_rcnn": dict(head="cascade_mask_rcnn"),
    "cascade_mask_rcnn without masks": dict(head="cascade_mask_rcnn", masks=False),
}
#: of the detector: field -> a value that must make a difference to what `observe` sees, whatever the head …
OF_THE_HEAD: dict[str, Any] = {
    "fpn_channels": 12,
    "head_convs": 2,
    "head_width": 12,
    "box_width": 24,
    "rois_per_image": 8,
    "proposals": 16,
    "anchor_scale": 2.0,
}
#: … but for these, which a head has no use for
REFUSED = {
    "retinanet": {"head_width", "box_width", "rois_per_image", "proposals"},
    "mask_rcnn without masks": {"head_convs", "head_width"},
}
#: of the run, alike for all heads
CHANGES: dict[str, Any] = {
    "model": "rmt_tiny",
    "model_args": "cpe=false",
    "weights": "a classifier",
    "head": "cascade_mask_rcnn",
    "masks": False,
    "short_side": 48,
    "long_side": 66,
    "train_short_sides": (32, 40),
    "random_crop": True,
    "flip": 0.0,
    "vertical_flip": 1.0,
    "rotation": 30.0,
    "min_scale": 0.5,
    "max_scale": 2.0,
    "distortion": 1.0,
    "metric": "mask_ap50",
    "epochs": 3,
    "epoch_repeats": 2.0,
    "batch_size": 1,
    "accumulate": 1,
    "lr": 1e-3,
    "lr_base_batch": 2,
    "lr_steps": (2,),
    "warmup_iterations": 4,
    "warmup_factor": 0.5,
    "weight_decay": 0.3,
    "decay_norms": True,
    "clip_grad": 1.0,
    "drop_path": 0.5,
    "layer_decay": 0.5,
    "ema_decay": 0.5,
    "ema_warmup": True,
    "precision": "bf16",
    "seed": 1,
}
#: field -> where its effect is tested instead
ELSEWHERE = {
    "frozen_stages": "training/test_layers.py",
    "name": "training/test_run_folder.py",
    "output": "training/test_run_folder.py",
    "data": "tasks/detect/test_detect.py",
    "images": "below",
    "annotations": "below",
    "val_images": "below",
    "val_annotations": "below",
    "holdout": "below",
    "empty_images": "below",
    "boxes": "data/detection/test_coco_exports.py",
    "crowd_as_objects": "data/detection/test_coco_exports.py",
    "effective_batch": "training/test_batch.py",
    "early_stopping": "training/test_train.py",
    "minutes": "training/test_plan.py",
    "restart_update": "training/test_extend.py",
    "restart_lr": "training/test_extend.py",
    "checkpoint_minutes": "tasks/detect/test_detect.py",
    "workers": "data/detection/test_transforms.py",
    "device": "training/test_fields.py",
    "devices": "tasks/detect/test_processes.py",
    "nodes": "training/distributed/test_launch.py",
    "strategy": "tasks/detect/test_processes.py",
    "on_nan": "training/test_nonfinite.py",
    "grad_checkpointing": "training/test_network.py",
    "compile": "training/test_network.py",
    "profile": "training/test_profile.py",
    "show_batch": "training/test_show_batch.py",
    "sync_batchnorm": "training/distributed/test_processes.py",
    "freeze_batchnorm": "training/test_network.py",
}


def observe(recipe: DetectRecipe) -> dict[str, Any]:
    """Everything a run's outcome hangs on, as plain values: data, detector, optimiser, schedule, trainer."""
    torch.manual_seed(recipe.seed)
    module = built(recipe)
    recipe = module.recipe
    optimizer = module.build_optimizer()
    schedule = module.build_schedule(optimizer)
    trainer = build_trainer(recipe, epochs=module.epochs, batches_per_epoch=1, callbacks=[], folder=Path())
    batch, judged = next(iter(module.data.train_loader(recipe))), next(iter(module.data.val_loader(recipe)))
    seen: dict[str, Any] = {
        "images": [image.tolist() for image in batch["image"]],
        "targets": [sorted(target) for target in batch["target"]],
        "judged": [image.shape for image in judged["image"]],
        "model": module.file_facts()["model_name"],
        "options": asdict(module.model.options),
        "parameters": [p.shape for p in module.model.parameters()],
        "weight": next(module.model.parameters()).tolist(),
        "drop path": str(module.model.pyramid.backbone.stages),
        "groups": [(g["weight_decay"], len(g["params"]), g["fused"]) for g in optimizer.param_groups],
        "length": (module.epochs, module.updates_per_epoch, module.batches_per_epoch),
        "trainer": (trainer.accumulate_grad_batches, trainer.gradient_clip_val, trainer.precision),
        "ema": module.ema and [module.ema.get_decay(step) for step in (None, 2, 9)],
        "best by": module.metric_columns,
        "rates": [],
    }
    for update in range(8):
        schedule.step_update(update)
        seen["rates"].append(optimizer.param_groups[0]["lr"])
    return seen


@functools.cache
def base(form: str) -> dict[str, Any]:
    return observe(tiny_recipe(**FORMS[form]))


def differs(form: str, **changes: Any) -> bool:
    changed = observe(replace(tiny_recipe(**FORMS[form]), **changes))
    return any(str(seen) != str(changed[key]) for key, seen in base(form).items())


def test_every_field_is_listed():
    listed = [*OF_THE_HEAD, *CHANGES, *ELSEWHERE]
    assert sorted(listed) == sorted(field.name for field in fields(DetectRecipe))


@pytest.mark.parametrize("form", FORMS)
def test_observing_twice_sees_the_same(form):
    assert tiny_recipe(**FORMS[form]).problems() == []
    assert not differs(form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("field", OF_THE_HEAD)
def test_a_field_of_the_detector_has_an_effect_or_is_refused(field, form):
    value = OF_THE_HEAD[field]
    problems = replace(tiny_recipe(**FORMS[form]), **{field: value}).problems()
    if field in REFUSED.get(form, ()):
        (problem,) = problems
        assert f"--{field.replace('_', '-')} has no effect" in problem
    else:
        assert problems == []
        assert differs(form, **{field: value})


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_of_the_run_has_an_effect(field, tmp_path):
    value = CHANGES[field]
    if field == "weights":
        value = str(tmp_path / "classifier.safetensors")
        rmt.save_checkpoint(rmt.create_model("rmt_test"), value, model_name="rmt_test")
    assert differs("cascade_mask_rcnn" if field == "masks" else "mask_rcnn", **{field: value})


def test_images_and_annotations_of_one_s_own(tmp_path):
    """Each of the fields for data in another layout than COCO's changes which files are opened."""
    folder, content = data() / "train2017", json.loads((data() / "annotations/instances_train2017.json").read_text())
    lonely = content["images"][0]["id"]
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] != lonely]
    annotations = write_json(tmp_path / "mine.json", content)

    def opened(**changes: Any) -> tuple[list[str], list[str]]:
        recipe = replace(tiny_recipe(), data="", images=str(folder), annotations=str(annotations), **changes)
        assert recipe.problems() == []
        found = DetectData.open(recipe)
        train, judge = ([images.name(i) for i in range(len(images))] for images in (found.train, found.val))
        return train, judge

    train, judge = opened(holdout=0.25)
    assert {Path(name).parent for name in train + judge} == {folder}
    assert len(judge) == 2
    assert len(opened(holdout=0.5)[1]) > len(judge)
    listed = dict(val_annotations=str(data() / "annotations/instances_val2017.json"))
    train, judge = opened(**listed)
    assert (len(train), len(judge)) == (8, 4) and Path(judge[0]).parent == folder
    assert Path(opened(**listed, val_images=str(data() / "val2017"))[1][0]).parent == data() / "val2017"
    assert len(opened(**listed, empty_images=True)[0]) == 9


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (dict(data="", images="a", annotations="b", val_annotations="c", holdout=0.5), "--holdout has no effect"),
        (dict(val_images="photos"), "--val-images goes with --val-annotations"),
        (dict(lr=math.nan), "--lr must be a number, not nan"),
        (dict(flip=math.inf), "--flip must be a number, not inf"),
    ],
)
def test_what_would_do_nothing_is_refused(changes, said):
    assert said in "; ".join(replace(tiny_recipe(), **changes).problems())


def test_a_hold_out_is_for_folders_without_a_validation_split(tmp_path):
    with pytest.raises(RMTError, match="--holdout has no effect where the data have a validation split"):
        DetectData.open(replace(tiny_recipe(), holdout=0.5))
    folder = shutil.copytree(data(), tmp_path / "coco")
    (folder / "annotations/instances_val2017.json").unlink()
    found = DetectData.open(replace(tiny_recipe(), data=str(folder), holdout=0.25))
    assert len(found.val) == 2 and not {*found.val.image_ids} & {*found.train.image_ids}
