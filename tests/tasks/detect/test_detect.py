"""Detection through the trainer and the commands: a run's folder, exact resume, evaluation, prediction, mistakes."""

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.coco_sets import open_coco, write_json
from helpers.detect_runs import data, finished_run, tiny_recipe
from helpers.resolved import built as make_module
from helpers.resolved import resolved
from helpers.runs import assert_same_run, rows
from PIL import Image

import rmt
from rmt.data.detection.coco import find_split
from rmt.data.detection.rle import decode
from rmt.errors import RMTError
from rmt.inference.detect import Detections, DetectPredictor
from rmt.inference.drawing.boxes import LabelledBox, draw_boxes
from rmt.inference.drawing.palette import line_colour
from rmt.model import read_metadata
from rmt.recipes import from_dict
from rmt.tasks import resume, task_named
from rmt.tasks.detect.build import build_detector
from rmt.tasks.detect.evaluate import describe, evaluate_checkpoint
from rmt.tasks.detect.module import DetectModule
from rmt.training.run import _introduction
from rmt.training.run_folder import RunFolder


def built(head: str, **changes):
    recipe = tiny_recipe(head=head, masks=head != "retinanet", **changes)
    torch.manual_seed(0)
    return make_module(recipe)


def test_the_run_folder_holds_what_the_contract_names():
    names = {file.name for file in finished_run().iterdir()}
    contract = {"recipe.json", "metrics.csv", "metrics.json", "report.png", "last.ckpt", "last.safetensors"}
    assert contract | {"last-ema.safetensors", "best.safetensors"} <= names
    assert from_dict(json.loads((finished_run() / "recipe.json").read_text())) == tiny_recipe(
        output=str(finished_run()), precision="fp32", strategy="ddp"
    )
    metrics = json.loads((finished_run() / "metrics.json").read_text())
    assert metrics["images"] == {"train": 9, "val": 4} and metrics["last"]["epoch"] == 2
    table = [row for row in rows(finished_run()) if row["kind"] == "epoch"]
    for kind, column in (("raw", "val_mask_ap50"), ("ema", "ema_val_mask_ap50")):
        assert metrics["last"][kind]["val"]["mask_ap50"] == float(table[-1][column])
    assert "test" not in {*metrics["last"]["raw"], *metrics["best"]}  # there are no test images
    assert metrics["skipped_files"] == {key: {"category that no image has": 1} for key in ("train", "val")}
    facts = read_metadata(finished_run())
    assert facts["task"] == "detect" and facts["head"] == "mask_rcnn" and facts["classes"] == ["disc", "bar", "never"]
    assert facts["preprocessing"] == {"size": [64, 96], "category_ids": [0, 7, 90]}


@pytest.mark.parametrize(("method", "call"), [("training_step", 2), ("training_step", 6), ("validation_step", 3)])
def test_a_killed_run_ends_as_if_nothing_had_happened(tmp_path, monkeypatch, method, call):
    class Killed(BaseException):
        pass

    calls, original = [], getattr(DetectModule, method)

    def fatal(self, *args, **kwargs):
        calls.append(0)
        if len(calls) == call:
            raise Killed
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(DetectModule, method, fatal)
        with pytest.raises(Killed):
            rmt.train(tiny_recipe(output=str(tmp_path), checkpoint_minutes=1e-9))
    resume(tmp_path)
    assert_same_run(tmp_path, finished_run())


def test_the_first_line_gives_both_limits_of_the_images_sides():
    line = _introduction(built("mask_rcnn"), RunFolder(Path("run")))[0]
    assert "at a short side of 64 px, a long side of at most 96 on cpu fp32, into run" in line and "²" not in line


def test_evaluation_of_the_file_gives_the_run_s_scores():
    result = evaluate_checkpoint(finished_run(), str(data()), workers=0)
    best = json.loads((finished_run() / "metrics.json").read_text())["best"]["val"]
    for kind in ("box", "mask"):
        for name, value in result["figures"][kind].items():
            assert 100 * max(value, 0) == pytest.approx(best[f"{kind}_{name}"], abs=1e-6)
    text = describe(result, per_class=True)
    assert "AP per class" in text[26] and ["never", "-", "-"] in [line.split() for line in text]
    assert "-: there are no such objects in these images" in text and not any("-1.0" in line for line in text)
    assert not any("per class" in line for line in describe(result))
    assert set(result) == {
        "images",
        "figures",
        "per_class",
        "notes",
        "unreadable",
        "judged",
        "results",
    }  # no way of showing
    predictor, calls = rmt.load(finished_run(), device="cpu"), []
    predictor.model.register_forward_pre_hook(lambda module, args: calls.append(args))
    apart = evaluate_checkpoint(
        finished_run(),
        "",
        images=data() / "val2017",
        annotations=data() / "annotations/instances_val2017.json",
        workers=0,
        predictor=predictor,
    )
    assert apart["figures"] == result["figures"] and calls


def test_results_are_in_the_picture_s_own_pixels(tmp_path):
    """A network that sees images at another size answers as COCO's results format wants it."""
    result = evaluate_checkpoint(finished_run(), str(data()), workers=0, image_size=128)
    images = open_coco(*find_split(data(), "val"), with_masks=True)
    sizes = dict(zip(images.image_ids.tolist(), images.sizes.tolist(), strict=True))
    assert result["results"]
    for entry in result["results"]:
        height, width = sizes[entry["image_id"]]
        x, y, w, h = entry["bbox"]
        assert x >= 0 and y >= 0 and x + w <= width + 1e-3 and y + h <= height + 1e-3
        assert entry["segmentation"]["size"] == [height, width] and entry["category_id"] in (0, 7, 90)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn", "cascade_mask_rcnn"])
def test_it_learns_the_images_that_it_is_trained_on(tmp_path, monkeypatch, head):
    monkeypatch.setattr("rmt.tasks.detect.report.draw_report", lambda *args: None)
    masks = head != "retinanet"
    images, annotations = (str(path) for path in find_split(data(), "train"))
    same = dict(data="", images=images, annotations=annotations, val_annotations=annotations, output=str(tmp_path))
    wider = dict(fpn_channels=16) | (dict(head_width=16, box_width=64, rois_per_image=32) if masks else {})
    length = dict(epochs=16, epoch_repeats=5.0, batch_size=4, accumulate=1, lr=4e-3, lr_steps=(0.8,), flip=0.0)
    recipe = tiny_recipe(head=head, masks=masks, ema_decay=0.0, drop_path=0.0, train_short_sides=(64,), **same, **wider)
    val = rmt.train(replace(recipe, **length)).metrics["last"]["raw"]["val"]
    assert val["box_ap50"] > 60
    assert not masks or val["mask_ap50"] > 60


@pytest.mark.parametrize("count", [0, 1, 3])
def test_masks_are_pasted_for_any_number_of_objects(count):
    boxes = torch.tensor([[1.0, 2.0, 5.0, 6.0]]).repeat(count, 1)
    output = dict(boxes=boxes, scores=torch.ones(count), labels=torch.zeros(count), masks=torch.ones(count, 1, 28, 28))
    masks = Detections.from_output(output, (8, 9)).masks
    assert masks is not None and [int(decode(mask, 8, 9).sum()) for mask in masks] == [16] * count


def test_predictions_are_coco_json(tmp_path):
    network = rmt.load(finished_run(), device="cpu")
    files = sorted((data() / "val2017").iterdir())[:2]
    results = [(file, network.result(file, threshold=0.0)) for file in files]
    assert all(result.values["objects"] and max(result.pictures["picture"].size) == 900 for _, result in results)
    content = network.document(results)
    assert [image["file_name"] for image in content["images"]] == [str(file) for file in files]
    assert [category["id"] for category in content["categories"]] == [0, 7, 90]
    assert len({annotation["id"] for annotation in content["annotations"]}) == len(content["annotations"])
    again = open_coco(Path("/"), write_json(tmp_path / "again.json", _relative(content)), with_masks=True)
    assert len(again) == 2  # our own reader takes it
    with pytest.raises(RMTError, match="--threshold must lie in"):
        network.result(files[0], threshold=2.0)


def test_predictions_are_not_added_to_earlier_ones(tmp_path, capsys):
    """A results list of COCO's own, as others' tools write it, or our own earlier answers: both stay as they were."""
    from rmt.commands.cli import main

    picture = min((data() / "val2017").iterdir())
    words = ["predict", str(finished_run()), str(picture), "--output", str(tmp_path)]
    (tmp_path / "predictions.json").write_text("[]")
    assert main(words) == 1
    assert "is not empty (it holds predictions.json): choose another folder" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["predictions.json"]
    assert (tmp_path / "predictions.json").read_text() == "[]"


def test_predictions_before_an_interruption_are_in_the_json(tmp_path, monkeypatch):
    from rmt.commands import predict

    pictures = sorted((data() / "val2017").iterdir())[:3]
    original, batches = DetectPredictor.run, []

    @functools.wraps(original)
    def stopped(network, batch, **options):
        batches.append(batch)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return original(network, batch, **options)

    monkeypatch.setattr(DetectPredictor, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict.run(finished_run(), tuple(pictures), output=tmp_path / "out", device="cpu")
    content = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file_name"] for image in content["images"]] == list(map(str, pictures[:2]))


def _relative(content):
    images = [image | {"file_name": image["file_name"].lstrip("/")} for image in content["images"]]
    return content | {"images": images}


def test_a_picture_shows_box_mask_and_name():
    mask = np.zeros((90, 120), dtype=np.uint8)
    mask[20:60, 30:80] = 1
    from rmt.data.detection.rle import encode

    (runs,) = encode(mask[None].astype(bool))
    assert np.array_equal(decode(runs, 90, 120), mask)
    plain = Image.new("RGB", (120, 90), (128, 128, 128))
    shown = np.asarray(
        draw_boxes(plain, [LabelledBox((30, 20, 80, 60), 2, "cat 0.93", runs)], min_long_side=480)
    ).astype(int)
    assert shown.shape == (360, 480, 3)
    paint = np.array(line_colour(2))
    assert np.abs(shown[120:125, 200] - paint).min() > 0  # the veil lets the picture through …
    veiled = 0.58 * 128 + 0.42 * paint
    assert np.abs(shown[160, 220] - veiled).max() <= 2
    assert np.abs(shown[200, 121] - paint).max() <= 2  # … the line at its border does not
    assert (shown[350, 20] == 128).all() and (shown[20, 400] == 128).all()
    assert np.array_equal(np.asarray(draw_boxes(plain, [], min_long_side=120)), np.asarray(plain))


def test_weight_decay_spares_norms_as_the_recipe_says():
    for head, everything in (("retinanet", True), ("mask_rcnn", False), ("cascade_mask_rcnn", False)):
        module = built(head, decay_norms=everything)
        groups = module.build_optimizer().param_groups
        spared = {p for group in groups if group["weight_decay"] == 0 for p in group["params"]}
        assert all(group["weight_decay"] in (0, 0.05) for group in groups)
        norms = {
            p
            for m in module.model.modules()
            if isinstance(m, torch.nn.LayerNorm | torch.nn.BatchNorm2d)
            for p in m.parameters()
        }
        assert spared == (set() if everything else norms) and norms
        every = {p for group in groups for p in group["params"]}
        assert every == set(module.model.parameters())


def test_the_rate_warms_up_by_updates_and_falls_by_epochs():
    module = built("mask_rcnn", epochs=6, lr_steps=(3, 5), warmup_iterations=4, warmup_factor=0.001)
    optimizer = module.build_optimizer()
    schedule = module.build_schedule(optimizer)
    assert module.updates_per_epoch == 2
    rates = []
    for update in range(12):
        schedule.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"] / 2e-3)
    warm = [0.001 + 0.999 * i / 4 for i in range(4)]
    assert rates == pytest.approx([*warm, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01, 0.01])


def test_fields_reach_the_detector():
    def options(head, **changes):
        return build_detector(replace(tiny_recipe(head=head, masks=head != "retinanet"), **changes), 3).options

    plain = options("mask_rcnn")
    assert (plain.fpn_channels, plain.mask_convs, plain.mask_width, plain.box_fc_width) == (8, 1, 8, 16)
    assert (plain.rois_per_image, tuple(plain.anchor_scales), plain.box_convs) == (16, (4.0,), 0)
    assert (tuple(plain.pre_nms), tuple(plain.post_nms)) == ((64, 32), (32, 32))
    paper = options("mask_rcnn", proposals=1000)
    assert (tuple(paper.pre_nms), tuple(paper.post_nms)) == ((2000, 1000), (1000, 1000))
    cascade = options("cascade_mask_rcnn", proposals=2000)
    assert (tuple(cascade.pre_nms), tuple(cascade.post_nms)) == ((2000, 1000), (2000, 1000))
    assert (cascade.box_convs, cascade.box_conv_width) == (1, 8)
    retina = options("retinanet")
    assert (retina.convs, retina.octave_base) == (1, 4.0)
    assert not options("mask_rcnn", masks=False).masks


def test_without_masks_a_set_of_boxes_is_enough(tmp_path):
    content = json.loads((data() / "annotations/instances_train2017.json").read_text())
    for item in content["annotations"]:
        del item["segmentation"]
    file = write_json(tmp_path / "boxes.json", content)
    recipe = replace(tiny_recipe(data="", masks=False), images=str(data() / "train2017"), annotations=str(file))
    module = make_module(recipe)
    assert len(module.data.train) + len(module.data.val) == 9 and len(module.data.val) == 2
    losses = module.model(*_batch(module))
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
    with pytest.raises(RMTError, match="no masks"):
        make_module(replace(recipe, masks=True))


@pytest.mark.parametrize(("with_masks", "trained"), [(1.0, True), (0.6, True), (0.4, False), (0.0, False)])
def test_open_masks_are_trained_where_most_objects_have_one(with_masks, trained, tmp_path):
    content = json.loads((data() / "annotations/instances_train2017.json").read_text())
    objects = [item for item in content["annotations"] if not item.get("iscrowd")]
    for item in objects[round(with_masks * len(objects)) :]:
        del item["segmentation"]
    file = write_json(tmp_path / "some.json", content)
    recipe = tiny_recipe(data="", masks="auto", images=str(data() / "train2017"), annotations=str(file))
    ran, found = resolved(replace(recipe, head_convs="auto", head_width="auto"))
    assert ran.masks is trained is found.train.with_masks and ran.open_fields() == []
    kept = sum(found.train.class_counts().values()) + sum(found.val.class_counts().values())
    assert kept == (round(with_masks * len(objects)) if trained else len(objects))
    assert resolved(tiny_recipe(head="retinanet", masks="auto"))[0].masks is False


def test_one_image_is_enough_to_train_on(tmp_path):
    content = json.loads((data() / "annotations/instances_train2017.json").read_text())
    content["images"] = content["images"][:1]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == content["images"][0]["id"]]
    file = str(write_json(tmp_path / "one.json", content))
    recipe = tiny_recipe(data="", accumulate=1)
    recipe = replace(recipe, images=str(data() / "train2017"), annotations=file, val_annotations=file)
    module = make_module(recipe)
    assert module.recipe.batch_size == 1 and module.updates_per_epoch == 1
    assert all(loss.isfinite() for loss in module.model(*_batch(module)).values())
    with pytest.raises(RMTError, match="cannot hold out"):
        make_module(replace(recipe, val_annotations=""))


def _batch(module):
    batch = next(iter(module.data.train_loader(module.recipe, workers=0)))
    module.model.train()
    return batch["image"], batch["target"]


def test_a_classifier_of_ours_gives_the_backbone(tmp_path):
    classifier = rmt.create_model("rmt_test", num_classes=4)
    rmt.save_checkpoint(classifier, tmp_path / "classifier.safetensors", model_name="rmt_test")
    said = []
    module = make_module(tiny_recipe(weights=str(tmp_path / "classifier.safetensors"), model="auto"), said.append)
    assert module.recipe.model == "rmt_test" and any("from the backbone in" in line for line in said)
    ours = module.model.pyramid.backbone.state_dict()
    assert all(torch.equal(value, classifier.state_dict()[name]) for name, value in ours.items())


def test_open_lengths_make_about_2000_updates():
    module = built("mask_rcnn", epochs=0, lr_steps=())
    assert module.recipe.epochs == 1000 and module.recipe.lr_steps == (667, 917)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (dict(data=""), "--data is missing"),
        (dict(annotations="a.json", images="b"), "--data and --annotations exclude"),
        (dict(data="", annotations="a.json"), "--annotations and --images belong together"),
        (dict(head="retinanet"), "--no-masks is needed"),
        (dict(short_side=16), "--short-side must be at least 32"),
        (dict(train_short_sides=()), "--train-short-sides"),
        (dict(rois_per_image=0), "--rois-per-image"),
        (dict(lr_steps=(0,)), "--lr-steps"),
        (dict(accumulate=9), "one update takes 18 images"),
    ],
)
def test_mistakes_are_one_line(changes, complaint):
    with pytest.raises(RMTError, match=complaint) as caught:
        rmt.train(tiny_recipe(**changes))
    assert "\n" not in str(caught.value)


def test_annotations_that_the_run_divided_are_judged_by_what_it_held_out(tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.tasks.detect.report.draw_report", lambda *args: None)
    images, annotations = data() / "train2017", data() / "annotations/instances_train2017.json"
    places = dict(images=images, annotations=annotations)
    own = {key: str(place) for key, place in places.items()}
    recipe = tiny_recipe(output=str(tmp_path), data="", **own, holdout=0.3, seed=5, epochs=1, lr_steps=())
    best = rmt.train(recipe).metrics["best"]["val"]
    result = evaluate_checkpoint(tmp_path, "", **places, workers=0)
    assert (result["images"], result["judged"]["part"]) == (3, "held out")
    assert task_named("detect").accuracy[1](result) == pytest.approx(best["box_ap"])  # what `rmt export` compares
    val = dict(images=data() / "val2017", annotations=data() / "annotations/instances_val2017.json")
    assert evaluate_checkpoint(tmp_path, "", **val, workers=0)["judged"]["part"] == "listed"


def test_evaluation_wants_one_set():
    with pytest.raises(RMTError, match="give --data FOLDER, or --images"):
        evaluate_checkpoint(finished_run(), "", workers=0)


def test_the_commands(tmp_path, capsys):
    from rmt.commands.cli import main

    assert main(["evaluate", str(finished_run()), "--data", str(data()), "--per-class", "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert said.count("Average Precision") == 12 and "AP per class" in said and "(4 images)" in said
    picture = min((data() / "val2017").iterdir())
    words = ["predict", str(finished_run()), str(picture), "--output", str(tmp_path / "out"), "--threshold", "0.01"]
    assert main(words) == 0
    assert {file.name for file in (tmp_path / "out").iterdir()} == {picture.name, "predictions.json"}
    assert main(["evaluate", str(finished_run())]) == 1
    assert "--data is missing" in capsys.readouterr().err
    assert main(["predict", str(finished_run()), str(picture), "--top-k", "3"]) == 1
    assert "--top-k" in capsys.readouterr().err
