"""`rmt token-labels`: a teacher's dense label maps for every training image, made once and stored."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from timm.data.transforms import str_to_interp_mode
from torch import Tensor

from rmt.atomic import replace_file
from rmt.data.image_loader import ImageLoader
from rmt.data.sets import ImageSet, subset
from rmt.data.splits import open_train
from rmt.data.token_labels.label_maps import INDEX, Arrays, LabelMapSpec, fingerprint, incomplete_files, write_map_file
from rmt.data.transforms import Normalize
from rmt.device import autocast, choose_device, choose_precision
from rmt.errors import RMTError
from rmt.output_folder import create_or_reopen
from rmt.tasks.classify.teacher import Teacher, dense_logits


@dataclass
class TokenLabelReport:
    """What `make_token_labels` did."""

    about: LabelMapSpec
    bytes: int = 0  # on disk, of all shards that are there
    missing: int = 0  # shards that other parts have still to make
    maps: int = 0  # made in this call
    agree: int = 0  # of these, those whose pooled map's likeliest class is the image's label
    unreadable: dict[str, str] = field(default_factory=dict)  # name -> reason

    @property
    def bytes_per_million(self) -> int:
        """Disk space that the maps of a million images take."""
        return 1_000_000 * self.about.bytes_per_image


def make_token_labels(
    teacher: Teacher,
    data: str,
    out: str | Path,
    *,
    top_k: int = 5,
    shard_images: int = 10_000,
    part: str = "1/1",
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "auto",
    workers: int = 2,
    console: Console | None = None,
) -> TokenLabelReport:
    """Maps of every training image of `data` (of all images where it has no validation part) into the folder `out`.

    Shards that are there and whole are kept, so a stopped call is simply made again. `part` "2/8" makes every eighth
    shard from the second on: eight processes share the work, on one machine or many.

    Raises RMTError when `out` holds maps of something else, and for whatever is wrong with data, disk or device.
    """
    console = console or Console(stderr=True, highlight=False)
    first, parts = _part(part)
    if batch_size < 1 or workers < 0 or shard_images < 1 or top_k < 1:
        raise RMTError("--batch-size, --shard-images and --top-k must be at least 1, and --workers at least 0")
    where = choose_device(device)
    kind = choose_precision(precision, where)
    root = open_train(data)  # held-out images too: another run may hold out others
    teacher.model.to(where)
    folder, about = Path(out).expanduser(), _about(teacher, root, top_k, shard_images, where)
    _keep_to(about, folder)
    for line in _doubts(teacher, root, about):
        console.print(line, markup=False)
    report = TokenLabelReport(about)
    todo, complaints = incomplete_files(folder, about, range(first, about.files, parts))
    for complaint in complaints:
        console.print(f"made again: {complaint}", markup=False)
    columns = (TextColumn("label maps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=sum(len(about.rows(number)) for number in todo))
        labeller = _Labeller(teacher, root, about, report, where, kind, batch_size, workers)
        for number, arrays in labeller.shards(todo, done=lambda images: bar.update(task, completed=images)):
            with replace_file(folder / about.file_name(number)) as draft:
                write_map_file(draft, arrays)
    sizes = [path.stat().st_size for path in map(folder.joinpath, _names(about)) if path.exists()]
    report.bytes, report.missing = sum(sizes), about.files - len(sizes)
    return report


@dataclass
class _Labeller:
    """Runs the teacher over the images and gathers its answers into shards."""

    teacher: Teacher
    root: ImageSet
    about: LabelMapSpec
    report: TokenLabelReport
    device: torch.device
    precision: str
    batch_size: int
    workers: int

    def shards(self, todo: Sequence[int], done: Callable[[int], None]) -> Iterator[tuple[int, Arrays]]:
        """Each shard of `todo` (ascending) when it is full, in one pass over their images; `done` hears of progress."""
        if not todo:
            return
        rows = [self.about.rows(number) for number in todo]
        wanted = subset(self.root, [row for shard in rows for row in shard])
        ends = torch.tensor([len(shard) for shard in rows]).cumsum(0).tolist()
        loader = ImageLoader(
            wanted,
            Squash(self.teacher),
            batch_size=self.batch_size,
            shuffle=False,
            workers=self.workers,
            pin_memory=self.device.type == "cuda",
        )
        filling: dict[int, Arrays] = {}
        full = 0
        try:
            for step, batch in enumerate(loader, start=1):
                self.report.unreadable.update(batch["bad"])
                if len(batch["label"]):
                    self._label(batch, wanted.indices[batch["index"].numpy()].tolist(), filling)
                seen = min(step * self.batch_size, len(wanted))
                done(seen)
                while full < len(todo) and ends[full] <= seen:
                    number = todo[full]
                    full += 1
                    yield number, filling.pop(number) if number in filling else self.about.empty(number)
        finally:
            loader.close()

    def _label(self, batch: Mapping[str, Any], images: Sequence[int], filling: dict[int, Arrays]) -> None:
        with autocast(self.precision, self.device):
            top = self.teacher.top(batch["image"].to(self.device, non_blocking=True), self.about.top_k)
        scores, classes = (part.cpu() for part in top)
        self.report.agree += int((pooled_top(scores, classes, self.about.num_classes) == batch["label"]).sum())
        self.report.maps += len(scores)
        for i, image in enumerate(images):
            number, row = divmod(image, self.about.shard_images)
            if number not in filling:
                filling[number] = self.about.empty(number)
            for name, value in (("scores", scores), ("classes", classes), ("sizes", batch["size"])):
                filling[number][name][row] = value[i].numpy()


class Squash:
    """The whole image to the teacher's height × width, whatever its shape, and its own width and height as `size`."""

    def __init__(self, teacher: Teacher):
        self.size = teacher.size
        self.filter = str_to_interp_mode(teacher.interpolation)
        self.normalize = Normalize(teacher.mean, teacher.std)

    def __call__(self, image: Image.Image) -> Tensor:
        from torchvision.transforms.functional import pil_to_tensor, resize

        return self.normalize(pil_to_tensor(resize(image, list(self.size), self.filter)))

    def labelled(self, image: Image.Image, index: int, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        return self(image), {"size": torch.tensor(image.size, dtype=torch.int32)}


def pooled_top(scores: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """The likeliest class of each map pooled over all its places: both (B, h, w, k) to int64 (B,)."""
    sums = torch.zeros(len(scores), num_classes).scatter_add_(1, classes.flatten(1), scores.flatten(1))
    return sums.argmax(1)


def _about(teacher: Teacher, root: ImageSet, top_k: int, shard_images: int, device: torch.device) -> LabelMapSpec:
    """What the maps will be; the teacher itself is asked for its grid and its number of classes."""
    with torch.inference_mode():
        _, *grid, num_classes = dense_logits(teacher.model, torch.zeros(1, 3, *teacher.size, device=device)).shape
    return LabelMapSpec(
        teacher=teacher.name,
        weights=teacher.weights,
        image_size=teacher.size,
        mean=teacher.mean,
        std=teacher.std,
        interpolation=teacher.interpolation,
        num_classes=num_classes,
        grid=(grid[0], grid[1]),
        top_k=min(top_k, num_classes),
        images=len(root),
        fingerprint=fingerprint(root),
        shard_images=min(shard_images, len(root)),
    )


def _keep_to(about: LabelMapSpec, folder: Path) -> None:
    """Writes the description, or makes sure that the one that is there says the same."""
    if not create_or_reopen(folder, INDEX, about.as_json(), "label maps"):
        return
    before = LabelMapSpec.read(folder)
    if before != about:
        ours, theirs = vars(about), vars(before)
        said = ", ".join(f"{key} {theirs[key]!r} -> {ours[key]!r}" for key in ours if ours[key] != theirs[key])
        raise RMTError(f"{folder}: it holds maps made otherwise ({said}); choose another folder or remove it")


def _doubts(teacher: Teacher, root: ImageSet, about: LabelMapSpec) -> list[str]:
    """What may keep the maps from being of use."""
    if about.num_classes != len(root.classes):
        return [
            f"warning: the teacher knows {about.num_classes:,} classes, the images have {len(root.classes):,}; "
            "networks can be trained on these maps only with images of all the teacher's classes"
        ]
    if teacher.classes and teacher.classes != root.classes:
        return ["warning: the teacher's classes are called otherwise, or stand in another order, than the images' do"]
    return []


def _names(about: LabelMapSpec) -> list[str]:
    return [about.file_name(number) for number in range(about.files)]


def _part(text: str) -> tuple[int, int]:
    """The first shard and the step of a part: "2/8" to (1, 8)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise RMTError(f"--part {text!r}: write it like 2/8, the second part of eight")
    return int(match[1]) - 1, int(match[2])
