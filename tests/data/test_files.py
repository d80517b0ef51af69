"""Text files as editors of Windows write them: with a byte order mark, in UTF-8 or UTF-16, with its line ends."""

import pytest
from helpers import detection_sets
from helpers.image_sets import encode, picture, write_tar
from helpers.segment_data import CLASSES, make_segments

from rmt.data.detection.layouts import detection_layout, open_detection
from rmt.data.files import read_lines
from rmt.data.segmentation.dataset import open_segmentation
from rmt.data.splits import open_splits

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16")


@pytest.fixture(params=ENCODINGS)
def rewrite(request):
    """Saves a text file again in another encoding."""

    def again(path):
        path.write_bytes(path.read_text(encoding="utf-8").replace("\n", "\r\n").encode(request.param))

    return again


def test_lines(tmp_path, rewrite):
    path = tmp_path / "classes.txt"
    path.write_text("Größe\n\n  猫 \nשלום\n", encoding="utf-8")
    rewrite(path)
    assert read_lines(path) == ["Größe", "猫", "שלום"]


def test_class_lists_of_masks(tmp_path, rewrite):
    root = make_segments(tmp_path, train=3, val=1)
    rewrite(root / "classes.txt")
    assert open_segmentation(str(root)).train.classes.names == CLASSES


def test_detection(tmp_path, rewrite):
    made = detection_sets.splits()
    yolo = detection_sets.make_yolo(tmp_path / "yolo", made)
    yaml = detection_sets.make_ultralytics(tmp_path / "yaml", made)
    voc = detection_sets.make_voc(tmp_path / "voc", made)
    coco = detection_sets.make_roboflow(tmp_path / "coco", made)
    for root in (yolo, yaml, voc, coco):
        for file in [*root.rglob("*.txt"), *root.rglob("*.yaml"), *root.rglob("*.json")]:
            rewrite(file)
        opened = open_detection(detection_layout(str(root)), with_masks=False, empty_images=True)
        assert opened.train.classes == detection_sets.CLASSES, root
        counts = {
            name: sum(row[0] == name for p in made["train"] for row in p.objects) for name in opened.train.classes
        }
        assert opened.train.class_counts() == counts


def test_tables_and_tars(tmp_path, rewrite, monkeypatch):
    monkeypatch.setenv("RMT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "table/images").mkdir(parents=True)
    for number in range(6):
        picture(number).save(tmp_path / f"table/images/{number}.png")
    rows = [f"{number}.png,{('café', 'thé')[number % 2]}" for number in range(6)]
    (tmp_path / "table/train.csv").write_text("\n".join(["file,label", *rows]) + "\n", encoding="utf-8")
    rewrite(tmp_path / "table/train.csv")
    assert open_splits(str(tmp_path / "table"), holdout=0.34).train.classes == ("café", "thé")
    (tmp_path / "tars").mkdir()
    samples = {f"{n}": {"png": encode(picture(n), "PNG"), "cls": str(n % 2).encode()} for n in range(6)}
    write_tar(tmp_path / "tars/train-000000.tar", samples)
    (tmp_path / "tars/classes.txt").write_text("café\nthé\n", encoding="utf-8")
    rewrite(tmp_path / "tars/classes.txt")
    assert open_splits(str(tmp_path / "tars"), holdout=0.34).train.classes == ("café", "thé")
