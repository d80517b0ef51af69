"""Find out how the files of a detection set lie, and open its splits: COCO, VOC, YOLO or labelme.

This is the one place that decides what a folder is. Each reader finds its own layout (`coco_layout`, `voc_layout`,
`yolo_layout`, `labelme_layout`) and packs a split into an `ObjectTable`. `rmt.data.split_names` says which names are
splits.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from rmt.data.detection.coco import CocoFiles, coco_layout, named_files
from rmt.data.detection.conventions import option
from rmt.data.detection.dataset import DetectionSet, Source, open_set
from rmt.data.detection.labelme import labelme_layout
from rmt.data.detection.voc import voc_layout
from rmt.data.detection.yolo import yolo_layout
from rmt.data.files import require_folder_access
from rmt.data.fingerprint import recognised
from rmt.data.sets import EvaluationSplit, HoldOut, Splits
from rmt.data.split_names import Split
from rmt.errors import RMTError

EXPECTED = (
    "COCO (annotations/instances_train….json, or train/_annotations.coco.json), VOC (Annotations/*.xml, JPEGImages), "
    "YOLO (data.yaml, or images/ and labels/*.txt), labelme (JSON files beside the images); any COCO-format JSON: "
    "--images FOLDER --annotations FILE"
)


class Layout(Protocol):
    """How the images and annotations of a folder lie."""

    name: str

    @property
    def choices(self) -> list[str]:
        """What the reader decided, such as the order of the classes; one phrase each."""

    @property
    def splits(self) -> Mapping[Split, str]:
        """The splits that there are, and where each is; undivided data are "train" alone."""

    def read(self, split: Split, *, masks: bool = True) -> Source:
        """Read and check the images and objects of a split, with `masks` also their masks; the objects are the same.

        Raises `RMTError`.
        """


def detection_layout(data: str, boxes: str = "auto") -> Layout:
    """The layout of a folder, or of the folder of a `data.yaml`; `boxes` is the form of the boxes in COCO-format files.

    Raises `RMTError` that says what is expected.
    """
    root = Path(data).expanduser()
    require_folder_access(root)
    found: Layout | None
    if root.suffix.lower() in (".yaml", ".yml") and root.is_file():
        found = yolo_layout(root.parent, root)
    elif root.is_dir():
        found = find_layout(root)
    else:
        raise RMTError(f"{data}: {'a file, not a folder' if root.exists() else 'no such folder'}; expected {EXPECTED}")
    if found is None:
        inner = [folder for folder in sorted(root.glob("*/"))[:20] if find_layout(folder) is not None]
        hint = f"; did you mean {inner[0]}?" if len(inner) == 1 else ""
        raise RMTError(f"{data}: no detection data found{hint}; expected {EXPECTED}")
    if isinstance(found, CocoFiles):
        found.boxes = boxes
    elif boxes != "auto":
        raise RMTError(f"--boxes {option(boxes)} is for COCO-format files, and {data} is {found.name}: leave it out")
    return found


def find_layout(root: Path) -> Layout | None:
    """The layout of a folder; None if it is no detection set."""
    return coco_layout(root) or voc_layout(root) or yolo_layout(root) or labelme_layout(root)


def coco_files(train: tuple[Path, Path], val: tuple[Path, Path] | None = None, boxes: str = "auto") -> Layout:
    """The layout of COCO-format files that were named: (image folder, annotation file) of each split."""
    files = named_files("COCO", {"train": train, "val": val} if val else {"train": train})
    files.boxes = boxes
    return files


def most_have_masks(source: Source, *, crowd_as_objects: bool = False) -> bool:
    """Whether at least half of the objects, which were read with masks, have a usable one: then masks are trained."""
    objects = ~source.table.crowd | crowd_as_objects
    return bool(objects.any()) and 2 * int(source.table.has_masks[objects].sum()) >= int(objects.sum())


def open_detection(
    layout: Layout,
    *,
    with_masks: bool | None,
    empty_images: bool,
    crowd_as_objects: bool = False,
    holdout: float = 0.0,
    seed: int = 0,
) -> Splits[DetectionSet]:
    """Open the training and the validation images; the labels of both refer to the classes of the training images.

    Args:
        layout: see `detection_layout` and `coco_files`.
        with_masks: see `open_set`; None: as `most_have_masks` says of the training objects.
        crowd_as_objects: see `open_set`.
        empty_images: keep training images that show no object.
        holdout, seed: see `DetectionSet.hold_out`; for data without a validation split.
    Raises:
        RMTError: as `open_set`, `hold_out`, `with_classes` and `without_empty` do.
    """
    if "train" not in layout.splits:
        raise RMTError(f"no training images: there is only {', '.join(layout.splits.values())}")
    source = layout.read("train", masks=with_masks is not False)
    if with_masks is None:
        with_masks = most_have_masks(source, crowd_as_objects=crowd_as_objects)
    options = dict(with_masks=with_masks, crowd_as_objects=crowd_as_objects)
    train = open_set(source, **options)
    if "val" in layout.splits:
        val = open_set(layout.read("val", masks=with_masks), **options).with_classes(train.classes)
    else:
        train, val = train.hold_out(holdout, seed)
    if not empty_images:
        train = train.without_empty()
    # Without a validation split both have the report of the whole.
    divided = "val" not in layout.splits
    skipped = {"train and val": train.skipped} if divided else {"train": train.skipped, "val": val.skipped}
    return Splits(train, val, skipped)


def open_detection_split(
    layout: Layout,
    *,
    with_masks: bool,
    crowd_as_objects: bool = False,
    split: Split | None = None,
    held: HoldOut | None = None,
) -> EvaluationSplit[DetectionSet]:
    """The images that an evaluation uses: those of `split`, or by default the validation split if there is one.

    Otherwise the images that a run held out, if `held` says how it divided the training images, or all images. Raises
    `RMTError`, also for a split that is not there.
    """
    options = dict(with_masks=with_masks, crowd_as_objects=crowd_as_objects)
    if split is None and "val" in layout.splits:
        split = "val"
    if split is not None:
        if split not in layout.splits:
            raise RMTError(f"--split {split}: the data have {', '.join(layout.splits)} only")
        return EvaluationSplit(open_set(layout.read(split, masks=with_masks), **options), split)
    if "train" not in layout.splits:
        return EvaluationSplit(open_set(layout.read("test", masks=with_masks), **options), "test")
    images = open_set(layout.read("train", masks=with_masks), **options)
    if held:
        found = recognised(held, lambda: images.hold_out(held.fraction, held.seed)[1])
        if found is not None:
            return EvaluationSplit(found, "held out")
    return EvaluationSplit(images, "all")
