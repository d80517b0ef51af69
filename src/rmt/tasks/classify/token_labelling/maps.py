"""`rmt token-labels`: a teacher's dense label map of every training image, computed once and stored."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from timm.data.transforms import str_to_interp_mode
from torch import Tensor

from rmt.data.image_loader import ImageLoader
from rmt.data.sets import ImageSet, Subset
from rmt.data.splits import open_train
from rmt.data.token_labels.label_maps import MAX_TOP_K, Arrays, LabelMapSpec, fingerprint
from rmt.data.transforms import Normalize
from rmt.device import autocast, choose_device, choose_precision
from rmt.errors import RMTError
from rmt.tasks.classify.token_labelling.map_files import TokenLabelReport, pooled_top, write_label_maps
from rmt.tasks.classify.token_labelling.teacher import Teacher, dense_logits


def make_token_labels(
    teacher: Teacher,
    data: str,
    out: str | Path,
    *,
    top_k: int = 5,
    shard_images: int = 10_000,
    batch_size: int = 64,
    device: str = "auto",
    precision: str = "auto",
    workers: int = 2,
    labeller: Callable[..., Iterator[tuple[int, Arrays]]] | None = None,
    console: Console | None = None,
) -> TokenLabelReport:
    """Writes the maps of every training image of `data` (of all images if it has no validation split) into `out`.

    Complete files are kept, so an interrupted call is continued by repeating it. `labeller` makes the files; by default
    it is `label`, and `label_on_ray` has several teachers.

    Raises:
        RMTError: `out` holds other maps, or for a mistake in data or options, or a full disk.
    """
    options: dict[str, Any] = {"device": device, "precision": precision, "batch_size": batch_size, "workers": workers}
    check_options(top_k, shard_images, **options)
    chosen_device = choose_device(device)
    images = open_train(data)  # with the images that a run would hold out: another run may hold out others
    teacher.model.to(chosen_device)
    report = TokenLabelReport(_describe(teacher, images, top_k, shard_images, chosen_device))
    make = partial(labeller or label, teacher, images, report, **options)
    warnings = _class_warnings(teacher, images, report.spec)
    console = console or Console(stderr=True, highlight=False)
    write_label_maps(Path(out).expanduser(), report, make, warnings=warnings, console=console)
    return report


def check_options(top_k: int, shard_images: int, *, device: str, precision: str, batch_size: int, workers: int) -> None:
    """Raises RMTError for options that no maps can be made with. It needs no teacher, which takes time to load."""
    numbers = {"--batch-size": batch_size, "--shard-images": shard_images, "--top-k": top_k, "--workers": workers}
    for name, number in numbers.items():
        least = 0 if name == "--workers" else 1
        if number < least:
            raise RMTError(f"{name} must be at least {least}, not {number}")
    if top_k > MAX_TOP_K:
        raise RMTError(f"--top-k {top_k} is more than a map may have: take at most {MAX_TOP_K}")
    choose_precision(precision, choose_device(device))


def label(
    teacher: Teacher,
    images: ImageSet,
    report: TokenLabelReport,
    todo: Sequence[int],
    show_progress: Callable[[int], None],
    *,
    device: str,
    precision: str,
    batch_size: int,
    workers: int,
) -> Iterator[tuple[int, Arrays]]:
    """Yields number and arrays of each file of `todo` (ascending) when it is complete, in one pass over its images.

    Maps of unreadable images stay 0. Counts go into `report`; `show_progress` is told the number of images done.
    """
    if not todo:
        return
    chosen_device = choose_device(device)
    chosen_precision = choose_precision(precision, chosen_device)
    teacher.model.to(chosen_device)
    spec = report.spec
    wanted = Subset(images, [row for number in todo for row in spec.rows(number)])
    transform = SquashTransform(teacher)
    loader = ImageLoader(wanted, transform, batch_size=batch_size, shuffle=False, workers=workers)
    pending = list(todo)
    arrays: dict[int, Arrays] = {}
    last = torch.tensor([len(spec.rows(number)) for number in todo]).cumsum(0).tolist()
    try:
        for step, batch in enumerate(loader, start=1):
            report.unreadable.update(batch["bad"])
            if len(batch["label"]):
                with autocast(chosen_precision, chosen_device):
                    top = teacher.top(batch["image"].to(chosen_device, non_blocking=True), spec.top_k)
                scores, classes = (part.cpu() for part in top)
                if not torch.isfinite(scores.half()).all():
                    raise RMTError(
                        f"{spec.teacher}: its logits are not finite in half precision; with --precision "
                        f"{chosen_precision} they may overflow: take --precision fp32, or another teacher"
                    )
                report.agree += int((pooled_top(scores, classes, spec.num_classes) == batch["label"]).sum())
                report.maps += len(scores)
                for i, image in enumerate(wanted.indices[batch["index"].numpy()].tolist()):
                    number, row = divmod(image, spec.shard_images)
                    if number not in arrays:
                        arrays[number] = spec.empty(number)
                    for name, values in (("scores", scores), ("classes", classes), ("sizes", batch["size"])):
                        arrays[number][name][row] = values[i].numpy()
            seen = min(step * batch_size, len(wanted))
            show_progress(seen)
            while pending and last[len(todo) - len(pending)] <= seen:
                number = pending.pop(0)
                yield number, arrays.pop(number) if number in arrays else spec.empty(number)
    finally:
        loader.close()


class SquashTransform:
    """Resizes a whole image to the teacher's height × width, whatever its aspect ratio, and normalises it."""

    def __init__(self, teacher: Teacher):
        self.size: tuple[int, int] = teacher.size
        self.filter = str_to_interp_mode(teacher.interpolation)
        self.normalize: Normalize = Normalize(teacher.mean, teacher.std)

    def __call__(self, image: Image.Image) -> Tensor:
        from torchvision.transforms.functional import pil_to_tensor, resize

        return self.normalize(pil_to_tensor(resize(image, list(self.size), self.filter)))

    def with_targets(self, image: Image.Image, index: int, name: str) -> tuple[Tensor, dict[str, Tensor]]:
        """The image, and `size`, its own width and height."""
        return self(image), {"size": torch.tensor(image.size, dtype=torch.int32)}


def _describe(teacher: Teacher, images: ImageSet, top_k: int, shard_images: int, device: torch.device) -> LabelMapSpec:
    """The description of the maps; a forward pass tells the teacher's grid and number of classes."""
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
        images=len(images),
        fingerprint=fingerprint(images),
        shard_images=min(shard_images, len(images)),
    )


def _class_warnings(teacher: Teacher, images: ImageSet, spec: LabelMapSpec) -> list[str]:
    """Warnings of classes with which the maps may be of no use."""
    if spec.num_classes != len(images.classes):
        return [
            f"warning: the teacher has {spec.num_classes:,} classes, the images have {len(images.classes):,}; "
            "networks can be trained on these maps only with images of all the teacher's classes"
        ]
    if teacher.classes and teacher.classes != images.classes:
        return ["warning: the names or the order of the teacher's classes differ from those of the images"]
    return []
