"""COCO's figures: faster-coco-eval against pycocotools, the table as COCO prints it, processes, crowd."""

import contextlib
import io
import re
import sys

import numpy as np
import pytest
from helpers.coco_sets import make_coco, open_coco

from rmt.data.detection.coco import find_split
from rmt.data.detection.rle import encode
from rmt.errors import RMTError
from rmt.inference.detect import Detections
from rmt.tasks.detect.evaluate import DetectEvaluator
from rmt.tasks.detect.metrics import KINDS, METRICS, coco_metrics, table

REFERENCE = pytest.importorskip("pycocotools.cocoeval")


@pytest.fixture
def images(tmp_path):
    return open_coco(*find_split(make_coco(tmp_path, val=9), "val"), with_masks=True)


def guesses(images, seed=0):
    """What a middling detector might find: some objects shifted, some missed, some wrong, some invented."""
    draw = np.random.default_rng(seed)
    evaluator = DetectEvaluator(images)
    for place in range(len(images)):
        objects = images.objects(place)
        height, width = images.sizes[place].tolist()
        kept = np.repeat(np.flatnonzero(draw.random(len(objects.boxes)) < 0.85), 2)  # each twice, at most one counts
        invented = np.stack([draw.uniform(0, 30, 3), draw.uniform(0, 30, 3), *draw.uniform(32, 60, (2, 3))], axis=1)
        boxes = np.concatenate([objects.boxes[kept] + draw.normal(0, 2, (len(kept), 4)), invented])
        boxes = boxes.clip(0, [width, height, width, height])
        labels = np.concatenate([objects.labels[kept], draw.integers(0, 2, 3)])
        labels = np.where(draw.random(len(labels)) < 0.15, 1 - labels, labels)
        masks = np.zeros((len(boxes), height, width), dtype=bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
            mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
            mask &= draw.random(mask.shape) < 0.97
        scores = draw.random(len(boxes)).astype(np.float32)
        order = np.argsort(-scores)
        found = Detections(boxes[order].astype(np.float32), labels[order], scores[order], encode(masks[order]))
        evaluator.detections[place] = found
    return evaluator


def reference(truth, results, kind):
    """pycocotools' figures, its precisions per class and its printed table."""
    from pycocotools.coco import COCO

    left_out = {"bbox": "segmentation", "segm": "bbox"}[kind]
    printed = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = truth
        known.createIndex()
        found = known.loadRes([{k: v for k, v in entry.items() if k != left_out} for entry in results])
        judge = REFERENCE.COCOeval(known, found, kind)
        judge.evaluate()
        judge.accumulate()
        with contextlib.redirect_stdout(printed):
            judge.summarize()
    return judge.stats, judge.eval["precision"], printed.getvalue().splitlines()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_figures_are_pycocotools_s(images, seed):
    evaluator = guesses(images, seed)
    scores = evaluator.coco_metrics()
    for kind, ours in KINDS.items():
        figures, precision, _ = reference(images.ground_truth(), evaluator.coco_results(), kind)
        mine = [scores.figures[ours][name] for name in METRICS]
        assert np.abs(np.array(mine) - figures).max() < 1e-6
        assert 0.05 < mine[0] < 0.95
        for place, name in enumerate(images.classes):
            counted = precision[:, :, place, 0, 2]
            counted = counted[counted > -1]
            expected = counted.mean() if counted.size else -1
            assert abs(scores.per_class[ours][name] - expected) < 1e-6
    assert scores.per_class["box"]["never"] == -1


def test_crowd_regions_forgive_detections(images):
    """One more detection inside a crowd region costs nothing; the same on the ground does."""
    evaluator = guesses(images)
    plain = evaluator.coco_metrics().figures["box"]["ap"]
    truth = images.ground_truth()
    crowded = next(a for a in truth["annotations"] if a["iscrowd"])
    extra = dict(image_id=crowded["image_id"], category_id=7, score=2.0)

    def with_one_more(box):
        entry = {**extra, "bbox": box}
        return coco_metrics(truth, [*evaluator.coco_results(), entry], ["bbox"]).figures["box"]["ap"]

    assert with_one_more(crowded["bbox"]) == pytest.approx(plain, abs=1e-9)
    assert with_one_more([60, 40, 9, 8]) < plain - 1e-3


def test_the_table_reads_as_coco_s(images):
    evaluator = guesses(images)
    scores = evaluator.coco_metrics()
    lines = table(scores.figures, scores.per_class)
    blocks = {}
    for kind, ours in KINDS.items():
        printed = reference(images.ground_truth(), evaluator.coco_results(), kind)[2]
        blocks[ours] = [line.replace("-1.000", "-") for line in printed]  # where there are no objects
    assert lines[0] == "box:" and lines[1:13] == blocks["box"]
    assert lines[13] == "mask:" and lines[14:26] == blocks["mask"]
    assert lines[26].split() == ["AP", "per", "class", "box", "mask"]
    assert [line.split()[0] for line in lines[27:]] == ["disc", "bar", "never", "-:"]  # what "-" means


def test_masks_are_small_or_large_by_their_own_area():
    """A thin wrong mask in a large box counts among the small objects, where it costs half the precision."""
    masks = np.zeros((2, 100, 100), dtype=bool)
    masks[0, 10:30, 10:30] = True
    masks[1, 40:45, 30:90] = masks[1, 40:90, 30:32] = True
    right, thin = encode(masks)
    truth = dict(images=[dict(id=1, height=100, width=100)], categories=[dict(id=1, name="a")], info={})
    own = dict(id=1, image_id=1, category_id=1, bbox=[10, 10, 20, 20], area=400, iscrowd=0, segmentation=right)
    results = [dict(image_id=1, category_id=1, bbox=[30, 40, 60, 50], score=0.9, segmentation=thin)]
    results += [dict(image_id=1, category_id=1, bbox=[10, 10, 20, 20], score=0.8, segmentation=right)]
    figures = coco_metrics({**truth, "annotations": [own]}, results, ["bbox", "segm"]).figures
    assert figures["mask"]["ap_small"] == pytest.approx(0.5)
    assert figures["box"]["ap_small"] == pytest.approx(1.0)  # its box is none of the small ones


def test_nothing_found_is_a_score_of_zero(images):
    evaluator = DetectEvaluator(images)
    with pytest.raises(RMTError, match=r"none of the images to evaluate on \(9\) could be read"):
        evaluator.coco_metrics()
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), [])
    evaluator.detections = dict.fromkeys(range(9), empty)
    flat = evaluator.coco_metrics().percent()
    assert flat["box_ap"] == flat["mask_ap50"] == 0


def test_processes_together_answer_as_one_with_each_image_once(images, monkeypatch):
    """Two processes with every other image each, one of them with an image of the other's, as padding would give."""
    whole = guesses(images)
    parts = [
        {place: whole.detections[place] for place in range(len(images)) if place % 2 == rank or place == 0}
        for rank in range(2)
    ]

    monkeypatch.setattr("rmt.training.distributed.processes.all_gather", lambda mine: parts)
    split = DetectEvaluator(images)
    split.detections = dict(parts[1])
    assert split.coco_metrics() == whole.coco_metrics()
    assert split.coco_results() == whole.coco_results()


def test_a_model_in_another_order_of_classes_scores_alike(images):
    plain = guesses(images)
    other = DetectEvaluator(images.with_classes(("bar", "more", "disc", "never")))
    place = np.array([2, 0, 3])
    for number, found in plain.detections.items():
        other.detections[number] = Detections(found.boxes, place[found.labels], found.scores, found.masks)
    assert other.coco_metrics() == plain.coco_metrics()


def test_without_the_package_the_remedy_is_named(images, monkeypatch):
    evaluator = guesses(images)
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(RMTError, match=re.escape("faster-coco-eval: pip install '.[detect]' in a checkout")):
        evaluator.coco_metrics()
