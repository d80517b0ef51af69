"""Published label maps, as those of LV-ViT: a folder CLASS/IMAGE.pt, one tensor (2, k, h, w) per image.

The tensor has the logits of the k stored classes and their numbers, both in half precision. `import_label_maps` packs
the maps into files of our own, in the order of the images.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from rmt.data.sets import ImageSet
from rmt.data.sources.folders import FolderSet
from rmt.data.sources.shards import ShardSet
from rmt.data.splits import open_train
from rmt.data.token_labels.label_maps import (
    MAX_SIDE,
    MAX_TOP_K,
    UNKNOWN_SIZE,
    Arrays,
    LabelMapSpec,
    fingerprint,
)
from rmt.errors import RMTError
from rmt.model.state_dicts import one_line, read_pickle
from rmt.tasks.classify.token_labelling.map_files import TokenLabelReport, pooled_top, write_label_maps

_MAX_BYTES = 2**24
"""Largest file of one map that is read; a published one has about 7 kB."""
_EXACT = {torch.float16: 2048, torch.float32: 2**24}  # integers up to these have exact values

Map = tuple[np.ndarray, np.ndarray]
"""Scores float16 (h, w, k) and classes int32 (h, w, k)."""


def import_label_maps(
    source: str | Path,
    data: str,
    out: str | Path,
    *,
    shard_images: int = 10_000,
    workers: int = 2,
    console: Console | None = None,
) -> TokenLabelReport:
    """Pack the maps of `source` for every training image of `data` into `out`. The scores are stored as they are.

    The map of the image `CLASS/IMAGE.jpg` is `CLASS/IMAGE.pt`. Images without one are counted in the report. Complete
    files are kept, as in `make_token_labels`.

    Args:
        workers: number of threads that read maps.
    Raises:
        RMTError: no image has a map; a map cannot be read or differs from the others in grid or number of classes;
            the images have no names; `out` has other maps.
    """
    if shard_images < 1 or workers < 0:
        raise RMTError("--shard-images must be at least 1, and --workers at least 0")
    source = Path(source).expanduser()
    if not source.is_dir():
        raise RMTError(f"--import {source}: no such folder; give the folder of the maps CLASS/IMAGE.pt")
    images = open_train(data)
    first = next((path for path in _paths(source, images, range(len(images))) if path.is_file()), None)
    if first is None:
        (example,) = _paths(source, images, range(1))
        raise RMTError(f"--import {source}: no image of {len(images):,} has a map ({example} is missing)")
    height, width, top_k = read_published_map(first, len(images.classes))[0].shape
    spec = LabelMapSpec(
        teacher=source.resolve().name,
        weights="imported",
        image_size=(0, 0),  # unknown
        mean=(),
        std=(),
        interpolation="",
        num_classes=len(images.classes),
        grid=(height, width),
        top_k=top_k,
        images=len(images),
        fingerprint=fingerprint(images),
        shard_images=min(shard_images, len(images)),
    )
    report = TokenLabelReport(spec)
    console = console or Console(stderr=True, highlight=False)
    make = partial(_pack, source, images, report, threads=max(workers, 1))
    write_label_maps(Path(out).expanduser(), report, make, warnings=(), console=console)
    return report


def _pack(
    source: Path,
    images: ImageSet,
    report: TokenLabelReport,
    todo: Sequence[int],
    show_progress: Callable[[int], None],
    *,
    threads: int,
) -> Iterator[tuple[int, Arrays]]:
    """See `MakeFiles`."""
    spec, done = report.spec, 0
    read = partial(_read_like, spec)
    with ThreadPoolExecutor(threads) as pool:
        for number in todo:
            arrays, rows = spec.empty(number), spec.rows(number)
            for row, content in enumerate(pool.map(read, list(_paths(source, images, rows)))):
                if content is not None:
                    arrays["scores"][row], arrays["classes"][row] = content
                    arrays["sizes"][row] = UNKNOWN_SIZE
                done += 1
                if done % 100 == 0:
                    show_progress(done)
            found = arrays["sizes"][:, 0] != 0
            scores, classes = (torch.from_numpy(arrays[name][found]) for name in ("scores", "classes"))
            top = pooled_top(scores.float(), classes.long(), spec.num_classes).numpy()
            report.maps += len(top)
            report.agree += int((top == images.labels[rows.start : rows.stop][found]).sum())
            yield number, arrays


def _paths(source: Path, images: ImageSet, indices: range) -> Iterator[Path]:
    """Where the maps of these images should be."""
    for index in indices:
        if isinstance(images, FolderSet):
            yield source / images.path(index).relative_to(images.root).with_suffix(".pt")
        elif isinstance(images, ShardSet) and (key := images.key(index)) is not None:
            yield source / images.classes[images.labels[index]] / f"{key.rpartition('/')[2]}.pt"
        else:
            raise RMTError(
                f"--import: {images.name(index)} has no file name to find its map by; import the maps for the folder "
                "of images (they also fit shards that `rmt shard --no-shuffle` makes of it)"
            )


def _read_like(spec: LabelMapSpec, path: Path) -> Map | None:
    """The map in a file, None if there is no such file. Raises RMTError for another grid."""
    if not path.is_file():
        return None
    scores, classes = read_published_map(path, spec.num_classes)
    if scores.shape != (*spec.grid, spec.top_k):
        theirs, ours = ("×".join(map(str, shape)) for shape in (scores.shape, (*spec.grid, spec.top_k)))
        raise RMTError(f"{path}: a map of {theirs} (height, width, classes), but the first map has {ours}")
    return scores, classes


def read_published_map(path: Path, num_classes: int) -> Map:
    """Read one map. Nothing in the file is executed, and it cannot take more memory than its own size.

    Raises RMTError if it is not a tensor (2, k, h, w) of finite scores and class numbers in 0…num_classes − 1.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"it has {path.stat().st_size:,} bytes, more than {_MAX_BYTES:,}")
        content = read_pickle(path)
    except RMTError:
        raise
    except Exception as error:  # arbitrary bytes make the unpickler raise anything
        raise RMTError(f"{path}: not a label map: {one_line(error)}") from None
    if problem := _problem(content, num_classes):
        raise RMTError(f"{path}: not a label map: {problem}")
    scores, classes = content.permute(0, 2, 3, 1).contiguous()
    return scores.half().numpy(), classes.int().numpy()


def _problem(content: object, num_classes: int) -> str:
    """Why the content of a file is not a label map; "" if it is one."""
    if not isinstance(content, torch.Tensor):
        return f"it contains a {type(content).__name__} instead of a tensor (2, k, h, w)"
    if content.layout != torch.strided or content.device.type != "cpu" or content.dtype not in _EXACT:
        return f"a tensor of {content.dtype} and {content.layout} instead of torch.float16 and torch.strided"
    if content.nbytes > content.untyped_storage().nbytes():
        return "its tensor is larger than its data"
    shape = tuple(content.shape)
    if len(shape) != 4 or shape[0] != 2 or not 1 <= shape[1] <= MAX_TOP_K or not 1 <= max(shape[2:]) <= MAX_SIDE:
        return f"a tensor of shape {shape} instead of (2, k, h, w)"
    if min(shape) < 1:
        return f"a tensor of shape {shape}, which is empty"
    scores, classes = content[0].half(), content[1].float()
    if not torch.isfinite(scores).all():
        return "some scores are not finite in half precision"
    if not bool(((classes >= 0) & (classes < num_classes) & (classes == classes.floor())).all()):
        return f"some classes are not numbers in 0…{num_classes - 1}"
    if num_classes - 1 > _EXACT[content.dtype]:
        return f"{content.dtype} cannot represent the class numbers up to {num_classes - 1} exactly"
    return ""
