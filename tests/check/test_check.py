"""`rmt check`: what it says of good and of faulty data of each task, its exit code, its files."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers import detection_sets as sets
from helpers.image_sets import picture
from helpers.segment_data import make_segments
from PIL import Image

from rmt.check.look import check
from rmt.check.opened import Where, guess_task
from rmt.check.scan import chosen
from rmt.commands import cli


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


def make_photos(root, **counts):
    """`root/SPLIT/CLASS/*.png`, all different, from SPLIT_CLASS=n."""
    for number, (place, count) in enumerate(counts.items()):
        folder = root.joinpath(*place.split("_"))
        folder.mkdir(parents=True)
        for i in range(count):
            picture(1000 * number + i, (40, 30)).save(folder / f"{i}.png")
    return root


def run(capsys, *args):
    code = cli.main(["check", *map(str, args)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("make", sets.DIVIDED)
def test_detection_layouts_are_recognised(tmp_path, capsys, make):
    made = sets.splits()
    root = make(tmp_path / "objects", made)
    code, out, _ = run(capsys, root, "--json", tmp_path / "found.json")
    found = json.loads((tmp_path / "found.json").read_text())
    assert (code, found["task"], found["usable"]) == (0, "detect", True)
    assert out.rstrip().splitlines()[-2] == f"next: rmt train finetune-detect {root}"
    for split, facts in found["splits"].items():
        objects = [item for picture in made[split] for item in picture.objects]
        assert facts["images"] == facts["looked_at"] == len(made[split])
        assert facts["classes"] == {name: sum(item[0] == name for item in objects) for name in sets.CLASSES}
        sizes = [((right - left) * (bottom - top)) ** 0.5 / 64 for _, left, top, right, bottom in objects]
        assert np.allclose(facts["size_quantiles"], np.quantile(sizes, [0.1, 0.5, 0.9]), atol=1e-4)
        assert facts["median_size"] == [80, 64]
    assert Image.open("check-objects.png").size[0] > 1000


def test_a_folder_of_classes(tmp_path, capsys):
    root = make_photos(tmp_path / "photos", train_ant=12, train_bee=20, val_ant=3, val_bee=3)
    code, out, _ = run(capsys, root, "--output", tmp_path / "sheet.png")
    assert code == 0 and "class folders, for classification" in out and (tmp_path / "sheet.png").exists()
    assert "images per class: ant 12, bee 20" in out and "sizes: all 40×30" in out
    assert "warning" not in out and f"next: rmt train finetune {root}\n" in out
    assert "note: no validation split" not in out
    assert "note: few images to train from scratch: a median of 16 per class → --weights rmt_micro" in out
    shutil.rmtree(root / "val")
    assert "note: no validation split: training holds out a part of train → --holdout" in run(capsys, root)[1]


def test_what_is_wrong_with_photos_is_said_with_a_remedy(tmp_path, capsys):
    root = make_photos(tmp_path / "photos", train_ant=12, train_bee=300, train_cat=3, val_ant=3, val_bee=3, val_cat=1)
    shutil.copy(root / "train/ant/4.png", root / "val/ant/9.png")
    shutil.copy(root / "train/ant/5.png", root / "train/ant/copy.png")
    whole = (root / "train/bee/7.png").read_bytes()
    (root / "train/bee/7.png").write_bytes(whole[: len(whole) // 2])
    (root / "train/bee/8.png").write_text("no image")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(root / "val/bee/turned.jpg", exif=exif)
    code, out, _ = run(capsys, root)
    assert code == 0
    for text in (
        "train: 2 unusable files: ",
        "bee/7.png (cannot be decoded",
        "bee/8.png (not an image",
        "→ repair or delete them",
        "1 image of val found in train, too: ",
        "val/ant/9.png = ",
        "train: 1 image repeated: ",
        "val: 1 photo stored rotated (EXIF)",
        "fewer than 10 training images: cat (3)",
        "unbalanced: bee 300, cat 3 images → --class-weights",
    ):
        assert text in out


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (dict(train_ant=3, train_bee=3, val_ant=1, val_dog=1), "dog only in val"),
        (dict(train_ant=3), "only one class folder"),
    ],
)
def test_what_training_refuses_is_an_error(tmp_path, capsys, counts, said):
    code, out, _ = run(capsys, make_photos(tmp_path / "photos", **counts))
    assert code == 1 and "error: " in out and said in out
    assert "training would refuse these data" in out and "next:" not in out


def test_no_data_is_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("nothing")
    for place, said in (("empty", "no class folder inside"), ("notes.txt", "a file, not a folder"), ("no", "no such")):
        code, out, err = run(capsys, tmp_path / place)
        assert (code, out) == (1, "") and said in err and err.count("\n") == 1
    assert run(capsys, tmp_path, "--max-images", "-1")[2].startswith("rmt: --max-images must be at least 0")
    assert "name a .png" in run(capsys, tmp_path, "--output", "sheet.gif")[2]


def test_masks_and_their_values(tmp_path, capsys):
    root = make_segments(tmp_path / "scenes", train=4, val=2)
    first = root / "masks/train/0.png"
    mask = np.asarray(Image.open(first)).copy()
    mask[0, :12] = 9
    Image.fromarray(mask).save(first)
    (root / "classes.txt").write_text("background\nred\nblue\ngreen\n")
    code, out, _ = run(capsys, root, "--json", tmp_path / "found.json")
    facts = json.loads((tmp_path / "found.json").read_text())["splits"]["train"]
    total = 4 * mask.size
    assert code == 1 and facts["mask_values"]["9"] == 12
    assert "error: " in out and f"the class list does not fit 1 of 4 masks, e.g. {first}: value 9" in out
    assert f"mask values of no class: 9 ({100 * 12 / total:.2g} % of the pixels)" in out and "such as void 9" in out
    assert "classes without images that show it in the training images: green" in out
    good = [np.asarray(Image.open(root / f"masks/train/{i}.png")) for i in (1, 2, 3)]
    expected = sum((m == 1).sum() for m in good) / (3 * mask.size)
    assert facts["pixel_shares"]["red"] == pytest.approx(expected) and facts["classes"]["red"] == 3
    (root / "classes.txt").write_text("background\nred\nblue\nvoid 9\n")
    code, out, _ = run(capsys, root)
    assert code == 0 and f"next: rmt train finetune-segment {root}\n" in out


def test_masks_of_0_and_255_are_pointed_at(tmp_path, capsys):
    root = make_segments(tmp_path / "scenes", train=3, val=2)
    for file in root.glob("masks/*/*.png"):
        mask = np.asarray(Image.open(file))
        Image.fromarray(np.where(mask == 1, 255, 0).astype(np.uint8)).save(file)
    (root / "classes.txt").write_text("background\nobject\n")
    code, out, _ = run(capsys, root)
    assert code == 1 and "have the value 255, which is ignored, and none is object" in out
    assert "if 255 means object, write its line in the class list as: object 255" in out


def test_faults_of_boxes_are_listed(tmp_path, capsys):
    made = sets.splits()
    root = sets.make_yolo(tmp_path / "objects", made, polygons=True)
    (root / f"labels/train/{made['train'][0].stem}.txt").write_text("0 0.5 0.5 0 0.1\n1 40 30 10 10\n")
    code, out, _ = run(capsys, root)
    assert code == 0 and "1 × box of zero or negative size, skipped" in out and "(are they pixels?), skipped" in out
    assert "without an object, left out of training → --empty-images" in out
    assert out.rstrip().splitlines()[-2].endswith(f"finetune-detect {root}")  # polygons: masks can be trained


def test_masks_are_looked_at_where_training_would_use_them(tmp_path, capsys):
    root = sets.make_coco_folder(tmp_path / "objects", sets.splits())
    file = root / "annotations/instances_train2017.json"
    content = json.loads(file.read_text())
    first, *others = content["annotations"]
    first["segmentation"] = [[0, 0, 80, 0, 80, 64]]
    for item in others:
        item["segmentation"] = {"size": [1, 1], "counts": "zzz"}
    file.write_text(json.dumps(content))
    code, out, _ = run(capsys, root, "--json", tmp_path / "found.json")
    facts = json.loads((tmp_path / "found.json").read_text())["splits"]["train"]
    assert code == 0 and facts["objects"] == len(content["annotations"])
    assert f"{len(others)} × mask that cannot be read, skipped: annotation 2" in out
    assert out.splitlines()[1] == "  boxes only"


def test_why_no_object_is_left_is_said(tmp_path, capsys):
    root = sets.make_yolo(tmp_path / "objects", sets.splits())
    for file in root.glob("labels/*/*.txt"):
        file.write_text("0 40 30 10 10\n")
    code, out, _ = run(capsys, root)
    assert code == 1 and "no image shows an object (5 × line whose numbers are not shares from 0 to 1 (are" in out


def test_a_broken_annotation_file_is_an_error_of_detection(tmp_path, capsys):
    root = sets.make_coco_folder(tmp_path / "objects", sets.splits())
    (root / "annotations/instances_val2017.json").write_text("{")
    code, out, _ = run(capsys, root)
    assert code == 1 and "error: " in out and "not a complete JSON file" in out and "train: 6 images" in out
    one_file = (root / "train2017", "--annotations", root / "annotations/instances_train2017.json")
    code, out, _ = run(capsys, *one_file, "--boxes", "xywh")
    assert code == 0 and f"--images {root}/train2017 --annotations " in out
    assert "instances_train2017.json --boxes xywh\n" in out


def test_the_usual_root_category_is_a_note_that_names_its_split(tmp_path, capsys):
    root = sets.make_roboflow(tmp_path / "objects", sets.splits())
    for file in root.glob("*/_annotations.coco.json"):
        content = json.loads(file.read_text())
        content["categories"].append({"id": 99, "name": "shapes", "supercategory": "none"})
        for category in content["categories"][:-1]:
            category["supercategory"] = "shapes"
        file.write_text(json.dumps(content))
    code, out, _ = run(capsys, root)
    assert code == 0 and not re.search("warning: .*category", out)
    for split in ("train", "valid"):
        assert f"note: {split}/_annotations.coco.json: 1 × category without an object" in out


def test_the_task_is_guessed(tmp_path):
    tasks = {
        "detect": sets.make_voc(tmp_path / "voc", sets.splits()),
        "segment": make_segments(tmp_path / "scenes"),
        "classify": make_photos(tmp_path / "photos", train_ant=1, train_bee=1),
    }
    assert {task: guess_task(Where(str(root))) for task, root in tasks.items()} == {task: task for task in tasks}
    assert guess_task(Where("sample")) == guess_task(Where("https://host/shards")) == "classify"


def test_shards_are_counted_whole_and_looked_at_in_part():
    report, opened = check(Where("sample"), max_images=30)
    facts = report.splits["train"]
    assert (facts["images"], facts["looked_at"], sum(facts["classes"].values())) == (8000, 30, 8000)
    assert report.usable and opened.splits["train"].buffer is not None
    assert "looked at 30, evenly spread" in "\n".join(report.lines())
    indices = chosen(opened.splits["train"], 30)
    assert len(indices) == 30 and indices[0] < 300 and indices[-1] > 7000
