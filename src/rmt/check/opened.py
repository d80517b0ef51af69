"""Open the splits of any data for a look: guess the task, open each split on its own, try what training would do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rmt.data.detection.dataset import Source, open_set
from rmt.data.detection.layouts import (
    Layout,
    coco_files,
    detection_layout,
    find_layout,
    most_have_masks,
    open_detection,
)
from rmt.data.files import require_folder_access
from rmt.data.segmentation.class_use import ClassUse, check_class_list
from rmt.data.segmentation.dataset import open_pairs, open_segmentation
from rmt.data.segmentation.layouts import IMAGES, MASKS, SegmentationLayout, mask_siblings, segmentation_layout
from rmt.data.sets import preview
from rmt.data.sources.remote import is_url
from rmt.data.split_names import Split
from rmt.data.splits import describe_parts, open_parts, open_splits, unused_beside
from rmt.errors import RMTError

TaskName = Literal["classify", "detect", "segment"]
_HOLDOUT = 0.2  # of the recipes for data of one's own


@dataclass(frozen=True)
class Where:
    """What the user named: the data, and the options of single tasks."""

    data: str
    classes: str = ""
    zero_is_ignored: bool = False
    annotations: Path | None = None
    boxes: str = "auto"


@dataclass
class OpenedData:
    """The splits of a data set, each an image set of its task.

    Attributes:
        task, layout: what the data were taken for.
        choices: what the reader decided, one phrase each.
        splits: the splits that could be opened.
        notes: what was skipped in them, one line per split and kind.
        errors: what training would refuse, one line each.
    """

    task: TaskName
    layout: str
    choices: list[str] = field(default_factory=list)
    splits: dict[Split, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def attempt(self, action: Callable[[], Any]) -> Any:
        """The result of `action`; its `RMTError` becomes one of `errors`, and the result None."""
        try:
            return action()
        except RMTError as error:
            if (line := str(error)) not in self.errors:
                self.errors.append(line)
            return None


class _ReadOnce:
    """A detection layout that reads each split once, with masks."""

    def __init__(self, layout: Layout):
        self.name, self.splits, self._layout = layout.name, layout.splits, layout
        self._sources: dict[Split, Source] = {}

    @property
    def choices(self) -> list[str]:
        return self._layout.choices

    def read(self, split: Split, *, masks: bool = True) -> Source:
        if split not in self._sources:
            self._sources[split] = self._layout.read(split)
        return self._sources[split]


def guess_task(where: Where) -> TaskName:
    """The task that the files in the folder are for."""
    root = Path(where.data).expanduser()
    if where.annotations or root.suffix.lower() in (".yaml", ".yml"):
        return "detect"
    if is_url(where.data) or not root.is_dir():
        return "classify"
    require_folder_access(root)
    try:
        if find_layout(root) is not None:
            return "detect"
    except RMTError:  # annotations that are wrong are annotations
        return "detect"
    folders = {name for name in (*IMAGES, *MASKS) if (root / name).is_dir()}
    if mask_siblings(root) or where.classes or (folders & {*IMAGES} and folders & {*MASKS}):
        return "segment"
    return "classify"


def open_data(where: Where, task: TaskName | None = None) -> OpenedData:
    """Open every split, and try what training would do. Raises `RMTError` if there are no data at all."""
    task = task or guess_task(where)
    return {"classify": _classify, "detect": _detect, "segment": _segment}[task](where)


def _classify(where: Where) -> OpenedData:
    opened = OpenedData("classify", describe_parts(where.data))
    if unused := unused_beside(where.data):
        opened.notes.append(f"not used, since beside the splits and in none: {preview(unused)}")
    for split, make in open_parts(where.data).items():
        images = opened.attempt(make)
        if images is not None:
            opened.splits[split] = images
            opened.notes += [f"{split}: {count:,} × {reason}, skipped" for reason, count in images.skipped.items()]
    if not opened.errors:
        opened.attempt(lambda: open_splits(where.data, holdout=_HOLDOUT))
    return opened


def _detect(where: Where) -> OpenedData:
    if where.annotations:
        layout: Any = _ReadOnce(coco_files((Path(where.data).expanduser(), where.annotations), boxes=where.boxes))
    else:
        layout = _ReadOnce(detection_layout(where.data, where.boxes))
    opened = OpenedData("detect", layout.name)
    masks: bool | None = None  # of the first split, train if there is one
    for split in layout.splits:
        source = opened.attempt(partial(layout.read, split))
        if source is None:
            continue
        masks = most_have_masks(source) if masks is None else masks
        images = opened.attempt(partial(open_set, source, with_masks=masks))
        if images is not None:
            opened.splits[split] = images
            opened.notes += images.notes
    if not opened.errors:
        options: dict[str, Any] = dict(with_masks=None, empty_images=False, holdout=_HOLDOUT)
        found = opened.attempt(lambda: open_detection(layout, **options))
        opened.choices = [*layout.choices, *([found.train.shapes] if found else [])]
    return opened


def _segment(where: Where) -> OpenedData:
    options = dict(zero_is_ignored=where.zero_is_ignored)
    layout: SegmentationLayout = segmentation_layout(where.data, where.classes, **options)
    opened = OpenedData("segment", layout.name, [f"classes as in {layout.class_file}"])
    for split in layout.splits:
        pairs = opened.attempt(lambda split=split: open_pairs(layout, split))  # type: ignore[misc]
        if pairs is not None:
            opened.splits[split] = pairs
            opened.notes += [f"{split}: {count:,} × {reason}, skipped" for reason, count in pairs.skipped.items()]
    if not opened.errors:
        opened.attempt(lambda: open_segmentation(where.data, where.classes, holdout=_HOLDOUT, **options))
    if train := opened.splits.get("train"):
        search = not train.classes.zero_is_ignored
        notes = opened.attempt(lambda: check_class_list(train, ClassUse.of(train, search=search), where.data))
        opened.notes += notes or []
    return opened
