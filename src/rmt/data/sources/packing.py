"""`rmt shard`: pack an image folder into parquet shards, in parallel; an interrupted call can be repeated."""

import hashlib
import io
import json
import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rmt.atomic import replace_file, write_text
from rmt.data.images import BadImage, read_bytes, read_image
from rmt.data.randomness import PACK, permutation
from rmt.data.sources.folders import FolderSet
from rmt.data.sources.remote import INDEX
from rmt.data.splits import class_split_folders
from rmt.errors import RMTError
from rmt.output_folder import create_or_reopen, require_reopenable

PLAN = "rmt-shard.json"
_ROW_GROUP = 100  # rows that a streaming reader fetches at a time, about 11 MB of ImageNet


@dataclass(frozen=True)
class ShardJob:
    """A shard to write: its file, and the image files and labels in their order."""

    target: Path
    root: Path
    files: tuple[str, ...]  # relative to root
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    short_side: int = 0  # of larger images, which are resized and written as JPEG; 0 keeps all as they are
    quality: int = 90  # of these JPEGs


@dataclass
class PackResult:
    """The contents of one shard, or of all."""

    images: int = 0
    bytes: int = 0  # of the image files
    written: int = 0  # shards written by this call
    bad: dict[str, str] = field(default_factory=dict)  # images skipped: name -> reason

    def add(self, other: "PackResult") -> None:
        self.images += other.images
        self.bytes += other.bytes
        self.written += other.written
        self.bad |= other.bad


def pack(
    folder: str | Path,
    out: str | Path,
    *,
    shard_images: int = 2_000,
    short_side: int = 0,
    quality: int = 0,
    shuffle: bool = True,
    seed: int = 0,
    workers: int = 0,
) -> PackResult:
    """Write every image of a folder to parquet shards that Hugging Face `datasets` can read, too.

    Each image is decoded once; those that cannot be decoded are skipped and named. The files are copied as they are,
    not encoded again, unless the images are larger than `short_side`. Each shard is read back and compared before it
    gets its name. Complete shards are kept, so that an interrupted call can be repeated. The file `index.json` lists
    the shards, for servers that list no folders.

    Args:
        folder: `train/CLASS/*`, `val/CLASS/*` and `test/CLASS/*`, or class folders.
        out: folder for the shards.
        shard_images: images per shard.
        short_side: resize images whose short side has more pixels than this, by Pillow's bicubic filter, and write them
            as JPEG; 0: none.
        quality: of these JPEGs, 1 to 100; 0: 90.
        shuffle: put the training images in a random order, which streaming needs.
        seed: of that order.
        workers: number of processes; 0: one per core.
    Raises:
        RMTError: `out` contains something else, the data cannot be used, or the disk cannot be written.
    """
    if shard_images < 1 or workers < 0 or seed < 0:
        raise RMTError("--shard-images must be at least 1, --workers and --seed at least 0")
    if short_side < 0 or not 0 <= quality <= 100:
        raise RMTError("--short-side must be at least 0, and --quality from 1 to 100")
    if quality and not short_side:
        raise RMTError("--quality is that of resized images: add --short-side, for example --short-side 256")
    quality = quality or 90
    source, target = Path(folder).expanduser(), Path(out).expanduser()
    require_reopenable(target, PLAN, "shards")
    folders = class_split_folders(source)
    sets = {split: FolderSet(part) for split, part in folders.items()}
    if len({images.classes for images in sets.values()}) > 1:
        raise RMTError(f"{source}: {', '.join(sets)} have different classes")
    sources = {split: _fingerprint(images) for split, images in sets.items()}
    plan: dict = {"shard_images": shard_images, "shuffle": shuffle, "seed": seed, "sources": sources}
    if short_side:
        plan |= {"short_side": short_side, "quality": quality}
    _check_plan(plan, target)
    jobs: list[ShardJob] = []
    for split, images in sets.items():
        shuffled = shuffle and split == "train"
        order = permutation(len(images), PACK, seed) if shuffled else np.arange(len(images))
        for job in _jobs(images, order, split, target, shard_images):
            jobs.append(replace(job, short_side=short_side, quality=quality))
    total, console = PackResult(), Console(stderr=True, highlight=False)
    columns = (TextColumn("shards"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        for result in bar.track(_run(jobs, workers or os.cpu_count() or 1), total=len(jobs)):
            total.add(result)
    sizes = {job.target.name: job.target.stat().st_size for job in jobs}
    write_text(target / INDEX, json.dumps(sizes, indent=2) + "\n")
    return total


def _jobs(images: FolderSet, order: np.ndarray, split: str, out: Path, shard_images: int) -> Iterator[ShardJob]:
    count = -(-len(order) // shard_images)
    for number in range(count):
        rows = order[number * shard_images : (number + 1) * shard_images].tolist()
        files = tuple(str(images.path(row).relative_to(images.root)) for row in rows)
        target = out / f"{split}-{number:05d}-of-{count:05d}.parquet"
        yield ShardJob(target, images.root, files, tuple(images.labels[rows].tolist()), images.classes)


def _fingerprint(images: FolderSet) -> str:
    """Hash of the names and labels of all files. Their contents are compared shard by shard."""
    files = (os.fsencode(images.path(index).relative_to(images.root)) + b"\0" for index in range(len(images)))
    return hashlib.sha256(json.dumps(images.classes).encode() + b"".join(files)).hexdigest()


def _check_plan(plan: dict, out: Path) -> None:
    """Write the plan to a new folder; raise `RMTError` if the folder has another plan."""
    if not create_or_reopen(out, PLAN, json.dumps(plan, indent=2) + "\n", "shards"):
        return
    try:
        before = json.loads((out / PLAN).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RMTError(f"{out / PLAN}: cannot be read ({error})") from None
    if before != plan:
        known = before if isinstance(before, dict) else {}
        changed = [key for key in plan | known if known.get(key) != plan.get(key)]
        raise RMTError(f"{out}: it holds shards made otherwise (another {', '.join(changed)}); choose another folder")


def _run(jobs: Sequence[ShardJob], workers: int) -> Iterator[PackResult]:
    if workers == 1:
        yield from map(write_shard, jobs)
        return
    ignore_ctrl_c = (signal.SIGINT, signal.SIG_IGN)
    try:
        with ProcessPoolExecutor(min(workers, len(jobs)), initializer=signal.signal, initargs=ignore_ctrl_c) as pool:
            yield from pool.map(write_shard, jobs)  # after an error the shards that are not begun are cancelled
    except BrokenProcessPool:
        raise RMTError("a process that wrote shards died, probably out of memory: use fewer --workers") from None


def write_shard(job: ShardJob) -> PackResult:
    """Write one shard and read it back, unless it is there and complete."""
    if job.target.exists() and (found := check_shard(job.target)) is not None:
        return found
    rows: list[dict] = []
    labels: list[int] = []
    result = PackResult(written=1)
    for file, label in zip(job.files, job.labels, strict=True):
        path = job.root / file
        try:
            image = read_image(data := read_bytes(path, str(path)), str(path))
        except BadImage as error:
            result.bad[error.name] = error.reason
            continue
        if 0 < job.short_side < min(image.size):
            data = _smaller(image, job.short_side, job.quality)
        rows.append({"bytes": data, "path": file})
        labels.append(label)
        result.images += 1
        result.bytes += len(data)
    schema = _schema(job.classes)
    table = pa.Table.from_pydict({"image": rows, "label": labels}, schema=schema)
    facts = {"sha256": _checksum(table), **asdict(result), "written": 0}
    table = table.replace_schema_metadata({**schema.metadata, b"rmt": json.dumps(facts).encode()})
    with replace_file(job.target) as draft:
        # Images are compressed already, and no two are alike.
        options = dict(compression="none", use_dictionary=False, write_statistics=False, row_group_size=_ROW_GROUP)
        pq.write_table(table, draft, **options)
        if check_shard(draft) is None:
            raise RMTError(f"{job.target}: what was read back is not what was written; check the disk")
    return result


def _smaller(image: Image.Image, short_side: int, quality: int) -> bytes:
    """The image with this short side, as JPEG."""
    width, height = (round(side * short_side / min(image.size)) for side in image.size)
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue()


def check_shard(path: Path) -> PackResult | None:
    """The contents of a shard; None if it is damaged or was not written by `write_shard`."""
    try:
        table = pq.read_table(path)
        facts = json.loads((table.schema.metadata or {})[b"rmt"])
        return PackResult(**facts) if facts.pop("sha256") == _checksum(table) else None
    except (pa.ArrowException, OSError, KeyError, ValueError, TypeError):
        return None


def _checksum(table: pa.Table) -> str:
    """SHA-256 over the bytes and labels of all images, in order."""
    digest = hashlib.sha256()
    for image, label in zip(table.column("image"), table.column("label"), strict=True):
        data = image["bytes"].as_buffer()
        digest.update(f"{len(data)} {label}\n".encode())
        digest.update(data)
    return digest.hexdigest()


def _schema(classes: Sequence[str]) -> pa.Schema:
    """Columns and metadata as Hugging Face `datasets` writes them, so that it shows class names and images."""
    import datasets

    names = datasets.ClassLabel(names=list(classes))
    return datasets.Features({"image": datasets.Image(), "label": names}).arrow_schema
